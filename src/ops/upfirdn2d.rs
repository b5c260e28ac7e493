//! Resampling by zero insertion, a finite impulse response filter and decimation, one filter for all channels:
//!
//! `y = (pad(x with up − 1 zeros after every pixel) * filter · gain)[::down, ::down]`
//!
//! after StyleGAN2's op of the same name, whose semantics it follows: `padding` is `[left, right, top, bottom]` in pixels
//! of the upsampled image, negative numbers crop, and the filter is applied as a convolution (mirrored) unless `flip`. It is
//! its own adjoint: `up` and `down` change places, the filter is mirrored and the padding follows. Filters are never
//! differentiated and live on the host.

use std::rc::Rc;

use super::{
    bias_act::{Activation, ActivationParams},
    epilogue::{Epilogue, Fused},
};
use serde_json::json;

use crate::{
    cpu::stencil::{Reads, Uniform, dense, separable},
    device::{
        divmod::FastDivmod,
        driver::DevicePtr,
        host::Real,
        index::{Pixels, count31},
        kernel::{FLOATS, Kernel, blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch,
    gemm::epilogue::EpilogueParams,
    kernel_params,
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal,
        registry::{Workload, only},
    },
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

/// A two-dimensional filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Rc<Taps>);

#[derive(Debug, PartialEq)]
struct Taps {
    rows: usize,
    cols: usize,
    dense: Vec<f64>,
    /// A column and a row whose product the filter is, where there is such a pair.
    factors: Option<(Vec<f64>, Vec<f64>)>,
}

impl Filter {
    /// The taps as given, row by row.
    pub fn new([rows, cols]: [usize; 2], taps: &[f64]) -> Result<Filter> {
        if rows * cols != taps.len() || taps.is_empty() {
            return Err(Error::shape("upfirdn2d", format!("{} taps for a {rows}x{cols} filter", taps.len())));
        }
        Ok(Filter(Rc::new(Taps { rows, cols, dense: taps.to_vec(), factors: factors(cols, taps) })))
    }

    /// The product of `taps` with themselves, scaled to sum one: `[1, 3, 3, 1]` is StyleGAN2's low-pass filter.
    pub fn low_pass(taps: &[f64]) -> Result<Filter> {
        let total: f64 = taps.iter().sum::<f64>().powi(2);
        let dense: Vec<f64> = taps.iter().flat_map(|a| taps.iter().map(move |b| a * b / total)).collect();
        Filter::new([taps.len(), taps.len()], &dense)
    }

    /// Rows and columns.
    pub fn extents(&self) -> [usize; 2] {
        [self.0.rows, self.0.cols]
    }
}

/// A column and a row whose product is `taps` to within rounding.
fn factors(cols: usize, taps: &[f64]) -> Option<(Vec<f64>, Vec<f64>)> {
    let pivot = (0..taps.len()).max_by(|&a, &b| taps[a].abs().total_cmp(&taps[b].abs()))?;
    let (size, row) = (taps[pivot], taps[pivot / cols * cols..][..cols].to_vec());
    if size == 0.0 || !size.is_finite() {
        return None;
    }
    let column: Vec<f64> = taps.chunks_exact(cols).map(|row| row[pivot % cols] / size).collect();
    let products = column.iter().flat_map(|a| row.iter().map(move |b| a * b));
    products.zip(taps).all(|(product, tap)| (product - tap).abs() <= 1e-15 * size.abs()).then_some((column, row))
}

/// What [`Tensor::upfirdn2d`] does beside filtering.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Upfirdn2d {
    /// One pixel becomes `up × up`, all but the first zero.
    pub up: usize,
    /// One of `down × down` filtered pixels is kept.
    pub down: usize,
    /// Left, right, top, bottom, in pixels of the upsampled image; negative numbers crop.
    pub padding: [i64; 4],
    /// The filter is applied as it is (a correlation), not mirrored.
    pub flip: bool,
    /// Multiplies the filter.
    pub gain: f64,
}

impl Default for Upfirdn2d {
    fn default() -> Upfirdn2d {
        Upfirdn2d { up: 1, down: 1, padding: [0; 4], flip: false, gain: 1.0 }
    }
}

impl Upfirdn2d {
    /// What the positions of `y` read along an axis, the filter taken as a correlation.
    fn reads(&self, positions: usize, taps: usize, before: i64, extent: usize) -> Reads {
        let Upfirdn2d { up, down, .. } = *self;
        Reads::new(positions, taps, |i, tap| {
            let at = usize::try_from((i * down + tap) as i64 - before).ok()?;
            (at % up == 0 && at / up < extent).then_some(at / up)
        })
    }

    /// Filter taps in the order a correlation wants.
    fn ordered(&self, taps: &[f64]) -> Vec<f64> {
        if self.flip { taps.to_vec() } else { taps.iter().rev().copied().collect() }
    }

    /// The definition: images `[h, w, c]` to `[oh, ow, c]`.
    pub(super) fn filter<T: Real>(
        &self,
        filter: &Filter,
        x: &[T],
        [h, w, c]: [usize; 3],
        y: &mut [T],
        [oh, ow]: [usize; 2],
    ) {
        let Upfirdn2d { padding: [left, _, top, _], gain, .. } = *self;
        let [taps_high, taps_wide] = filter.extents();
        let (rows, cols) = (self.reads(oh, taps_high, top, h), self.reads(ow, taps_wide, left, w));
        let at = |taps: &[f64], gain: f64| self.ordered(taps).iter().map(|tap| T::c(tap * gain)).collect::<Vec<T>>();
        match &filter.0.factors {
            Some((column, row)) => separable(x, [h, w, c], (&rows, &at(column, gain)), (&cols, &at(row, 1.0)), y),
            None => {
                let taps = at(&filter.0.dense, gain);
                dense(x, [h, w, c], (&rows, &cols), (&Uniform(&taps), taps_wide), y);
            }
        }
    }

    /// The column and the row whose product the filter is, as a correlation has them, the gain in the column.
    pub(super) fn factors(&self, filter: &Filter) -> Option<[Vec<f64>; 2]> {
        let (column, row) = filter.0.factors.as_ref()?;
        Some([self.ordered(column).iter().map(|tap| tap * self.gain).collect(), self.ordered(row)])
    }

    /// What carries gradients of a result of `oh` by `ow` pixels back to the image of `h` by `w`.
    pub(super) fn adjoint(&self, filter: &Filter, [h, w]: [usize; 2], [oh, ow]: [usize; 2]) -> Upfirdn2d {
        let Upfirdn2d { up, down, padding: [left, _, top, _], flip, gain } = *self;
        let [rows, cols] = filter.extents();
        let before = |taps: usize, before: i64| taps as i64 - 1 - before;
        let after = |extent: usize, out: usize, before: i64| {
            (extent * up) as i64 - (out * down) as i64 + before - up as i64 + 1
        };
        let padding = [before(cols, left), after(w, ow, left), before(rows, top), after(h, oh, top)];
        Upfirdn2d { up: down, down: up, padding, flip: !flip, gain }
    }
}

impl Tensor {
    /// `[n, h, w, c] -> [n, h', w', c]`, `h' = (h · up + top + bottom − filter rows) / down + 1`.
    pub fn upfirdn2d(&self, filter: &Filter, resample: Upfirdn2d) -> Result<Tensor> {
        self.upfirdn2d_fused(filter, resample, &Epilogue::default())
    }

    /// The same with an epilogue, in one pass.
    pub fn upfirdn2d_fused(&self, filter: &Filter, resample: Upfirdn2d, epilogue: &Epilogue) -> Result<Tensor> {
        let mut x = vec![self];
        let fused = epilogue.join(&mut x);
        apply1(Resample { filter: filter.clone(), resample, fused }, &x)
    }
}

struct Resample {
    filter: Filter,
    resample: Upfirdn2d,
    fused: Fused,
}

impl Resample {
    fn extents(&self, x: Shape) -> Result<([usize; 4], [usize; 2])> {
        let Upfirdn2d { up, down, padding: [left, right, top, bottom], .. } = self.resample;
        let wrong = || Error::shape("upfirdn2d", format!("{x} leaves nothing after {:?}", self.resample));
        let [n, h, w, c] = x.nhwc().ok_or_else(wrong)?;
        let out = |extent: usize, before: i64, after: i64, taps: usize| {
            let room = i64::try_from(extent * up).ok()? + before + after - taps as i64;
            Some(usize::try_from(room).ok()?.checked_div(down)? + 1)
        };
        let [rows, cols] = self.filter.extents();
        match (out(h, top, bottom, rows), out(w, left, right, cols)) {
            (Some(oh), Some(ow)) if up > 0 => Ok(([n, h, w, c], [oh, ow])),
            _ => Err(wrong()),
        }
    }
}

kernel_params! {
    struct Upfirdn2dParams {
        x: DevicePtr, y: DevicePtr, epilogue: EpilogueParams, count: u32, wide: u32, of: Pixels,
        h: i32, w: i32, oh: i32, ow: i32, c: i32, down: i32, left: i32, top: i32, up: FastDivmod, rows: i32, cols: i32,
        taps: [f32; MOST_TAPS],
    }
}

/// What fits into a kernel's parameters: 16 x 16, or any two factors of up to 256 taps together.
const MOST_TAPS: usize = 256;
const THREADS: u32 = 256;
/// Rows of the result that a thread of the separable kernel works on.
const STRIP: usize = 4;
// SAFETY: only this file fills `Upfirdn2dParams`, from the tensors and scratch memory of the launch and from their sizes.
const SEPARABLE: Kernel<Upfirdn2dParams> = unsafe { Kernel::new(&modules::UPFIRDN2D, "separable", THREADS, FLOATS) };
// SAFETY: as above, `Upfirdn2dParams`.
const DENSE: Kernel<Upfirdn2dParams> = unsafe { Kernel::new(&modules::UPFIRDN2D, "dense", THREADS, FLOATS) };

impl Op for Resample {
    fn name(&self) -> &'static str {
        "upfirdn2d"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let Spec { shape, dtype } = x[0];
        if !dtype.is_float() {
            return Err(Error::DType { op: "upfirdn2d", wanted: "a float type", got: dtype });
        }
        let ([n, _, _, c], [oh, ow]) = self.extents(shape)?;
        let y = Spec::new([n, oh, ow, c], dtype);
        self.fused.check("upfirdn2d", x, y, false)?;
        Ok(vec![y])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let ([_, h, w, c], out) = self.extents(args.x_shape(0))?;
        float_dispatch!(args, T => {
            let (x, epilogue) = (args.x::<T>(0), self.fused.host::<T>(args));
            let y = args.y::<T>(0);
            self.resample.filter::<T>(&self.filter, x, [h, w, c], y, out);
            epilogue.apply(c, y, None);
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, y) = (args.x[0], args.y[0]);
        let ([n, h, w, c], [oh, ow]) = self.extents(x.shape())?;
        let Upfirdn2d { up, down, padding: [left, _, top, _], gain, .. } = self.resample;
        let [rows, cols] = self.filter.extents();
        let (kernel, strip, ordered) = match self.resample.factors(&self.filter) {
            Some([column, row]) => (&SEPARABLE, STRIP, [column, row].concat()),
            None => {
                let ordered = self.resample.ordered(&self.filter.0.dense);
                (&DENSE, 1, ordered.into_iter().map(|tap| tap * gain).collect())
            }
        };
        if ordered.len() > MOST_TAPS {
            let message = format!("a filter of {rows}x{cols} taps; kernels take {MOST_TAPS}, or factors of as many");
            return Err(Error::shape("upfirdn2d", message));
        }
        let mut taps = [0.0; MOST_TAPS];
        taps.iter_mut().zip(&ordered).for_each(|(to, &tap)| *to = tap as f32);
        let vector = x.dtype().vector_elems();
        let wide = c.is_multiple_of(vector);
        let vectors = if wide { c / vector } else { c };
        let strips = oh.div_ceil(strip);
        let count = count31("upfirdn2d", n * strips * ow * vectors)?;
        let int = |extent: usize| count31("upfirdn2d", extent).map(u32::cast_signed);
        let edge = |pixels: i64| {
            i32::try_from(pixels).map_err(|_| Error::shape("upfirdn2d", format!("padding of {pixels} pixels")))
        };
        let params = Upfirdn2dParams {
            x: x.ptr,
            y: y.ptr,
            epilogue: self.fused.device(args, None),
            count,
            wide: wide.into(),
            of: Pixels::new(strips, ow, vectors),
            h: int(h)?,
            w: int(w)?,
            oh: int(oh)?,
            ow: int(ow)?,
            c: int(c)?,
            down: int(down)?,
            left: edge(left)?,
            top: edge(top)?,
            up: FastDivmod::new(int(up)? as u32),
            rows: int(rows)?,
            cols: int(cols)?,
            taps,
        };
        args.launch(kernel, x.dtype(), blocks(count as usize, THREADS as usize), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let ([_, h, w, _], [oh, ow]) = self.extents(v.x_spec(0).shape)?;
        let adjoint = self.resample.adjoint(&self.filter, [h, w], [oh, ow]);
        let backprop = self.fused.backprop(v)?;
        let mut all = vec![v.when(0, || backprop.dsum.upfirdn2d(&self.filter, adjoint))?];
        all.extend(self.fused.gradients(v, &backprop)?);
        Ok(all)
    }

    fn keep(&self) -> Keep {
        self.fused.keep()
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "upfirdn2d",
    order: Order::Any,
    kernels: &[SEPARABLE.info(), DENSE.info()],
    cases: || {
        let low_pass = |name, x: [usize; 4], resample: Upfirdn2d| {
            Case::new(name, [normal(x)], move |x| {
                Ok(vec![x[0].square()?.upfirdn2d(&Filter::low_pass(&[1.0, 3.0, 3.0, 1.0])?, resample)?])
            })
        };
        let any = |name, x: [usize; 4], extents: [usize; 2], resample: Upfirdn2d| {
            Case::new(name, [normal(x)], move |x| {
                let taps: Vec<f64> = (0..extents[0] * extents[1]).map(|i| (1.7 * i as f64 + 0.3).sin()).collect();
                Ok(vec![x[0].square()?.upfirdn2d(&Filter::new(extents, &taps)?, resample)?])
            })
        };
        let plain = Upfirdn2d::default();
        // Everything an epilogue has; the residual only behind a linear activation.
        let fused = |name, x: [usize; 4], activation, clamp| {
            let ([n, h, w, c], line) = (x, activation == Activation::Linear);
            let (noise, residual) = ([n, 2 * h, 2 * w, 1], [n, 2 * h, 2 * w, c]);
            let mut inputs = vec![normal(x), normal([c]), normal(noise), normal([1])];
            inputs.extend(line.then(|| normal(residual)));
            Case::new(name, inputs, move |x| {
                let params = ActivationParams { alpha: 0.2, gain: 1.4, clamp };
                let (noise, residual) = (Some((&x[2], &x[3])), x.get(4));
                let epilogue = Epilogue { bias: Some(&x[1]), noise, activation, params, residual };
                let up = Upfirdn2d { up: 2, padding: [2, 1, 2, 1], gain: 4.0, ..plain };
                let filter = Filter::low_pass(&[1.0, 3.0, 3.0, 1.0])?;
                Ok(vec![x[0].square()?.upfirdn2d_fused(&filter, up, &epilogue)?])
            })
        };
        vec![
            low_pass("blur", [2, 5, 6, 3], Upfirdn2d { padding: [2, 1, 2, 1], ..plain }),
            low_pass("up", [1, 4, 5, 9], Upfirdn2d { up: 2, padding: [2, 1, 2, 1], gain: 4.0, ..plain }),
            low_pass("down", [1, 7, 6, 35], Upfirdn2d { down: 2, padding: [1, 1, 1, 1], ..plain }),
            low_pass("up_and_down", [1, 6, 5, 2], Upfirdn2d { up: 2, down: 3, padding: [3, 0, 1, 2], ..plain }),
            low_pass("crop", [1, 9, 8, 1], Upfirdn2d { padding: [-1, 2, 0, -2], flip: true, ..plain }),
            any("ragged", [1, 6, 7, 4], [3, 2], Upfirdn2d { padding: [1, 0, 2, 1], gain: 0.7, ..plain }),
            any("ragged_up", [2, 3, 4, 8], [2, 5], Upfirdn2d { up: 2, padding: [-1, 4, 2, 0], flip: true, ..plain }),
            any("ragged_down", [1, 8, 9, 33], [5, 3], Upfirdn2d { up: 2, down: 2, padding: [0, 2, 1, 4], ..plain }),
            fused("epilogue_leaky_relu", [2, 3, 4, 5], Activation::LeakyRelu, Some(1.1)),
            fused("epilogue_relu_of_vectors", [1, 5, 2, 8], Activation::Relu, None),
            fused("epilogue_residual", [2, 3, 3, 3], Activation::Linear, None),
            any("one_tap", [1, 3, 4, 2], [1, 1], Upfirdn2d { up: 3, ..plain }),
        ]
    },
    workloads: || {
        let run = |resample| move |x: &[Tensor]| x[0].upfirdn2d(&Filter::low_pass(&[1.0, 3.0, 3.0, 1.0])?, resample);
        let plain = Upfirdn2d::default();
        let gpu = [
            ("blur", [8, 256, 256, 64], 1, 1, [2, 1, 2, 1]),
            ("up", [8, 128, 128, 64], 2, 1, [2, 1, 2, 1]),
            ("down", [8, 256, 256, 64], 1, 2, [1, 1, 1, 1]),
        ];
        let gpu = gpu.map(|(name, x, up, down, padding)| {
            let outputs = x.iter().product::<usize>() * up * up / (down * down);
            let resample = Upfirdn2d { up, down, padding, ..plain };
            Workload::gpu(format!("upfirdn2d_{name}"), [normal(x)], 32.0 * outputs as f64, run(resample))
                .with(json!({ "up": up, "down": down, "padding": padding }))
        });
        let cpu = [
            ("blur_64px_c128", [4, 64, 64, 128], Upfirdn2d { padding: [2, 1, 2, 1], ..plain }),
            ("up_64px_c128", [4, 64, 64, 128], Upfirdn2d { up: 2, padding: [2, 1, 2, 1], gain: 4.0, ..plain }),
            ("down_64px_c128", [4, 64, 64, 128], Upfirdn2d { down: 2, padding: [1, 1, 1, 1], ..plain }),
            ("up_128px_c3", [4, 128, 128, 3], Upfirdn2d { up: 2, padding: [2, 1, 2, 1], gain: 4.0, ..plain }),
        ];
        let cpu = cpu.map(|(name, x, resample)| Workload::cpu(format!("upfirdn2d_{name}"), [normal(x)], run(resample)));
        gpu.into_iter().chain(cpu).collect()
    },
    reference: Some(|a| {
        let taps = a.tensor("filter")?;
        let extents = taps.shape().as_array().ok_or_else(|| Error::shape("upfirdn2d", "filter is not a matrix"))?;
        let padding: Vec<i64> = a.floats("padding")?.into_iter().map(|p| p as i64).collect();
        let resample = Upfirdn2d {
            up: a.int("up")?,
            down: a.int("down")?,
            padding: padding.try_into().map_err(|_| Error::shape("upfirdn2d", "four paddings wanted"))?,
            flip: a.flag("flip_filter")?,
            gain: a.float("gain")?,
        };
        Ok(only("y", a.tensor("x")?.upfirdn2d(&Filter::new(extents, &taps.to_vec::<f64>()?)?, resample)?))
    }),
};
