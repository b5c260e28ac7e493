//! A convolution in which every channel sees only itself:
//!
//! `y[n,i,j,c] = Σ_{r,s} x[n, i·stride + r − padding, j·stride + s − padding, c] · w[r,s,c]`
//!
//! Like the full convolution it forms a triad with its input and weight gradients, so every order exists. A matrix product
//! would have one column; on the CPU the channels are the vector and the taps are summed in registers.

use serde_json::json;

use crate::{
    cpu::stencil::{PerChannel, Reads, dense, lanes, sum_over_rows},
    device::{
        driver::{DeviceProps, DevicePtr},
        host::Real,
        index::count31,
        kernel::{FLOATS, Kernel, KernelInfo, blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch,
    gemm::{
        epilogue::EpilogueParams,
        splitk::{reduce_splits, splitk_reduce},
        vector,
    },
    kernel_params,
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal,
        registry::{Workload, only},
        same_float,
    },
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
};

impl Tensor {
    /// `[n, h, w, c] -> [n, h', w', c]` with `weight` `[r, s, c]` and `padding` zeros on each side.
    pub fn depthwise_conv2d(&self, weight: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
        apply1(Depthwise { stride, padding, role: Role::Forward }, &[self, weight])
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    /// `(x, w) -> y`
    Forward,
    /// `(dy, w) -> dx`, `[h, w]` the extents of `x`
    InputGradient([usize; 2]),
    /// `(x, dy) -> dw`, `[r, s]` the extents of `w`
    WeightGradient([usize; 2]),
}

struct Depthwise {
    stride: usize,
    padding: usize,
    role: Role,
}

/// Extents of `x`, of the kernel and of `y`, and the channels of all.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Geometry {
    n: usize,
    x: [usize; 2],
    kernel: [usize; 2],
    y: [usize; 2],
    c: usize,
}

impl Depthwise {
    fn with(&self, role: Role) -> Depthwise {
        Depthwise { role, ..*self }
    }

    fn geometry(&self, a: Shape, b: Shape) -> Result<Geometry> {
        let wrong = || Error::shape(self.name(), format!("{a} and {b} do not fit, stride {}", self.stride));
        let [n, h, w, c] = a.nhwc().ok_or_else(wrong)?;
        let (x, kernel, y) = match (self.role, &*b) {
            (Role::Forward, &[r, s, c_b]) if c == c_b => ([h, w], [r, s], None),
            (Role::InputGradient(x), &[r, s, c_b]) if c == c_b => (x, [r, s], Some([h, w])),
            (Role::WeightGradient(kernel), &[n_b, oh, ow, c_b]) if (n, c) == (n_b, c_b) => {
                ([h, w], kernel, Some([oh, ow]))
            }
            _ => return Err(wrong()),
        };
        let out = |axis: usize| {
            let room = (x[axis] + 2 * self.padding).checked_sub(kernel[axis])?;
            Some(room.checked_div(self.stride)? + 1)
        };
        let (Some(oh), Some(ow)) = (out(0), out(1)) else { return Err(wrong()) };
        if kernel.contains(&0) || y.is_some_and(|y| y != [oh, ow]) {
            return Err(wrong());
        }
        Ok(Geometry { n, x, kernel, y: [oh, ow], c })
    }

    /// What each position of `y` reads along an axis.
    fn reads(&self, g: &Geometry, axis: usize) -> Reads {
        Reads::windows(g.y[axis], g.kernel[axis], self.stride, self.padding, g.x[axis])
    }
}

kernel_params! {
    struct StencilParams {
        x: DevicePtr,
        w: DevicePtr,
        y: DevicePtr,
        n: u32,
        h: u32,
        width: u32,
        c: u32,
        r: u32,
        s: u32,
        oh: u32,
        ow: u32,
        stride: u32,
        up: u32,
        padding_h: i32,
        padding_w: i32,
        flipped: u32,
        vector: u32,
        strips: u32,
        unused: u32,
    }

    struct WeightGradientParams {
        x: DevicePtr,
        dy: DevicePtr,
        partials: DevicePtr,
        n: u32,
        h: u32,
        width: u32,
        c: u32,
        r: u32,
        s: u32,
        oh: u32,
        ow: u32,
        stride: u32,
        padding: i32,
        vector: u32,
        rows_per_split: u32,
        lanes: u32,
        unused: u32,
    }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `StencilParams`, from the tensors and scratch memory of the launch and from their sizes.
const FORWARD: Kernel<StencilParams> = unsafe { Kernel::new(&modules::DEPTHWISE_CONV2D, "fwd", THREADS, FLOATS) };
// SAFETY: as above, `StencilParams`.
const INPUT_GRADIENT: Kernel<StencilParams> =
    unsafe { Kernel::new(&modules::DEPTHWISE_CONV2D, "bwd_x", THREADS, FLOATS) };
// SAFETY: as above, `WeightGradientParams`.
const WEIGHT_GRADIENT: Kernel<WeightGradientParams> =
    unsafe { Kernel::new(&modules::DEPTHWISE_CONV2D, "bwd_weight", THREADS, FLOATS) };
const KERNELS: &[KernelInfo] =
    &[FORWARD.info(), INPUT_GRADIENT.info(), WEIGHT_GRADIENT.info(), splitk_reduce(&modules::DEPTHWISE_CONV2D).info()];

/// How the weight gradient is split: rows of `y` in a split, vectors of channels in a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct RowSplits {
    count: usize,
    rows_per_split: usize,
    lanes: usize,
}

impl RowSplits {
    /// For `rows` rows of `y` and `vectors` vectors of channels, `layers` blocks on top of each other anyway.
    fn new(rows: usize, vectors: usize, layers: usize, props: &DeviceProps) -> RowSplits {
        let lanes = vectors.next_power_of_two().min(32);
        let parts = THREADS as usize / lanes;
        let wanted = (4 * props.num_sms as usize).div_ceil(vectors.div_ceil(lanes) * layers);
        let count = wanted.min(rows.div_ceil(parts)).clamp(1, 256);
        let rows_per_split = rows.div_ceil(count).max(1);
        RowSplits { count: rows.div_ceil(rows_per_split).max(1), rows_per_split, lanes }
    }
}

impl Depthwise {
    /// The map from `read` to `written`, moving by `stride` over the image upsampled `up` times; `flipped` is the kernel of an
    /// input gradient, whose padding is what the forward map's leaves of its reach.
    fn launch_stencil(
        &self,
        args: &DeviceArgs,
        kernel: &Kernel<StencilParams>,
        g: &Geometry,
        (read, written): ([usize; 2], [usize; 2]),
        [stride, up]: [usize; 2],
        flipped: Option<[usize; 2]>,
    ) -> Result<()> {
        let int = |value| count31(self.name(), value);
        let dtype = args.y[0].dtype();
        let channels = vector(g.c, dtype) as usize;
        let channels = if channels * dtype.bytes() == 16 { channels } else { 1 };
        let per_thread = if [stride, up] == [1, 1] && channels > 1 && g.kernel[1] == 5 { 2 } else { 4 };
        let strips = written[1].div_ceil(per_thread);
        let padding = |axis: usize| match flipped {
            Some(kernel) => kernel[axis] as i64 - 1 - self.padding as i64,
            None => self.padding as i64,
        };
        let params = StencilParams {
            x: args.x[0].ptr,
            w: args.x[1].ptr,
            y: args.y[0].ptr,
            n: int(g.n)?,
            h: int(read[0])?,
            width: int(read[1])?,
            c: int(g.c)?,
            r: int(g.kernel[0])?,
            s: int(g.kernel[1])?,
            oh: int(written[0])?,
            ow: int(written[1])?,
            stride: int(stride)?,
            up: int(up)?,
            padding_h: padding(0) as i32,
            padding_w: padding(1) as i32,
            flipped: flipped.is_some() as u32,
            vector: channels as u32,
            strips: int(strips)?,
            unused: 0,
        };
        let threads = g.n * written[0] * strips * (g.c / channels);
        args.launch(kernel, dtype, blocks(threads, THREADS as usize), 0, &params)
    }

    /// Each share of the rows by itself, then their sum.
    fn launch_weight_gradient(&self, args: &DeviceArgs, g: &Geometry) -> Result<()> {
        let int = |value| count31(self.name(), value);
        let dtype = args.y[0].dtype();
        let channels = vector(g.c, dtype) as usize;
        let channels = if channels * dtype.bytes() == 16 { channels } else { 1 };
        let layers = match g.kernel {
            [r, 3] => r,
            [r, 5] if channels > 1 => r,
            [r, s] => r * s,
        };
        let vectors = g.c / channels;
        let splits = RowSplits::new(g.n * g.y[0], vectors, layers, &args.driver.props());
        let partials = args.scratch(splits.count * args.y[0].elems() * 4)?;
        let params = WeightGradientParams {
            x: args.x[0].ptr,
            dy: args.x[1].ptr,
            partials: partials.ptr(),
            n: int(g.n)?,
            h: int(g.x[0])?,
            width: int(g.x[1])?,
            c: int(g.c)?,
            r: int(g.kernel[0])?,
            s: int(g.kernel[1])?,
            oh: int(g.y[0])?,
            ow: int(g.y[1])?,
            stride: int(self.stride)?,
            padding: int(self.padding)? as i32,
            vector: channels as u32,
            rows_per_split: int(splits.rows_per_split)?,
            lanes: splits.lanes as u32,
            unused: 0,
        };
        let grid = [int(splits.count)?, int(vectors.div_ceil(splits.lanes))?, int(layers)?];
        args.launch(&WEIGHT_GRADIENT, dtype, grid, 0, &params)?;
        reduce_splits(args, &modules::DEPTHWISE_CONV2D, partials.ptr(), int(splits.count)?, EpilogueParams::NONE)
    }
}

impl Op for Depthwise {
    fn name(&self) -> &'static str {
        match self.role {
            Role::Forward => "depthwise_conv2d",
            Role::InputGradient(_) => "depthwise_conv2d_input_gradient",
            Role::WeightGradient(_) => "depthwise_conv2d_weight_gradient",
        }
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        let Geometry { n, x: [h, w], kernel: [r, s], y: [oh, ow], c } = self.geometry(x[0].shape, x[1].shape)?;
        Ok(vec![match self.role {
            Role::Forward => Spec::new([n, oh, ow, c], dtype),
            Role::InputGradient(_) => Spec::new([n, h, w, c], dtype),
            Role::WeightGradient(_) => Spec::new([r, s, c], dtype),
        }])
    }

    fn macs(&self, x: &[Spec], y: &[Spec]) -> u64 {
        let (outputs, kernel) = match self.role {
            Role::Forward => (y[0].shape, x[1].shape),
            Role::InputGradient(_) => (x[0].shape, x[1].shape),
            Role::WeightGradient(_) => (x[1].shape, y[0].shape),
        };
        (outputs.elems() * kernel[0] * kernel[1]) as u64
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let g = self.geometry(args.x_shape(0), args.x_shape(1))?;
        let (rows, cols) = (self.reads(&g, 0), self.reads(&g, 1));
        float_dispatch!(args, T => {
            let (a, b) = (args.x::<T>(0), args.x::<T>(1));
            let taps = (&PerChannel { weights: b, channels: g.c }, g.kernel[1]);
            let y = args.y::<T>(0);
            match self.role {
                Role::Forward => dense(a, [g.x[0], g.x[1], g.c], (&rows, &cols), taps, y),
                Role::InputGradient([h, w]) => {
                    dense(a, [g.y[0], g.y[1], g.c], (&rows.transposed(h), &cols.transposed(w)), taps, y);
                }
                Role::WeightGradient(_) => weight_gradient(&g, (&rows, &cols), a, b, y),
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let g = self.geometry(args.x[0].shape(), args.x[1].shape())?;
        if args.y[0].elems() == 0 {
            return Ok(());
        }
        match self.role {
            Role::Forward => self.launch_stencil(args, &FORWARD, &g, (g.x, g.y), [self.stride, 1], None),
            Role::InputGradient(_) => {
                self.launch_stencil(args, &INPUT_GRADIENT, &g, (g.y, g.x), [1, self.stride], Some(g.kernel))
            }
            Role::WeightGradient(_) => self.launch_weight_gradient(args, &g),
        }
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (upstream, a, b) = (v.upstream()?, v.x(0), v.x(1));
        let Geometry { x, kernel, .. } = self.geometry(a.shape(), b.shape())?;
        let forward = |a: &Tensor, b: &Tensor| apply1(self.with(Role::Forward), &[a, b]);
        let dx = |a: &Tensor, b: &Tensor| apply1(self.with(Role::InputGradient(x)), &[a, b]);
        let dw = |a: &Tensor, b: &Tensor| apply1(self.with(Role::WeightGradient(kernel)), &[a, b]);
        Ok(match self.role {
            Role::Forward => vec![v.when(0, || dx(upstream, b))?, v.when(1, || dw(a, upstream))?],
            Role::InputGradient(_) => vec![v.when(0, || forward(upstream, b))?, v.when(1, || dw(upstream, a))?],
            Role::WeightGradient(_) => vec![v.when(0, || dx(b, upstream))?, v.when(1, || forward(a, upstream))?],
        })
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

fn weight_gradient<T: Real>(g: &Geometry, (rows, cols): (&Reads, &Reads), x: &[T], dy: &[T], dw: &mut [T]) {
    let sums = sum_over_rows(g.n * g.y[0], dw.len(), |range, sums: &mut [T]| {
        for i in range {
            let x = &x[i / g.y[0] * g.x[0] * g.x[1] * g.c..];
            let (reads, dy) = (rows.at(i % g.y[0]), &dy[i * g.y[1] * g.c..][..g.y[1] * g.c]);
            for &(sy, ty) in reads {
                let x = &x[sy * g.x[1] * g.c..][..g.x[1] * g.c];
                let sums = &mut sums[ty * g.kernel[1] * g.c..][..g.kernel[1] * g.c];
                vectorised!(match g.c {
                    32.. => correlate_row::<T, 32>(x, dy, cols, g.c, sums),
                    8.. => correlate_row::<T, 8>(x, dy, cols, g.c, sums),
                    _ => correlate_row::<T, 1>(x, dy, cols, g.c, sums),
                });
            }
        }
    });
    dw.copy_from_slice(&sums);
}

/// `sums[tap, c] += Σ_j x[source(j, tap), c] · dy[j, c]` along one row.
#[inline(always)]
fn correlate_row<T: Real, const LANES: usize>(x: &[T], dy: &[T], cols: &Reads, c: usize, sums: &mut [T]) {
    for group in 0..c.div_ceil(LANES) {
        // The last group may overlap the one before: lanes already summed are left alone.
        let first = (group * LANES).min(c - LANES);
        let skip = group * LANES - first;
        for j in 0..cols.positions() {
            let dy = lanes::<T, LANES>(dy, j * c + first);
            for &(sx, tx) in cols.at(j) {
                let x = lanes::<T, LANES>(x, sx * c + first);
                let sums = &mut sums[tx * c + first..tx * c + first + LANES];
                if skip == 0 {
                    for lane in 0..LANES {
                        sums[lane] += x[lane] * dy[lane];
                    }
                } else {
                    for lane in skip..LANES {
                        sums[lane] += x[lane] * dy[lane];
                    }
                }
            }
        }
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "depthwise_conv2d",
    order: Order::Any,
    kernels: KERNELS,
    cases: || {
        let case = |name, x: [usize; 4], [r, s]: [usize; 2], stride, padding| {
            Case::new(name, [normal(x), normal([r, s, x[3]])], move |x| {
                Ok(vec![x[0].depthwise_conv2d(&x[1], stride, padding)?])
            })
        };
        vec![
            case("same_3x3", [2, 5, 7, 3], [3, 3], 1, 1),
            case("strided_5x5", [1, 8, 7, 9], [5, 5], 2, 2),
            case("valid_even", [1, 4, 6, 2], [2, 4], 1, 0),
            case("stride_past_the_kernel", [1, 8, 7, 2], [2, 2], 3, 0),
            case("many_channels", [1, 3, 4, 37], [3, 3], 1, 1),
            case("aligned_3x3", [2, 4, 7, 16], [3, 3], 1, 1),
            case("aligned_5x5", [1, 6, 5, 8], [5, 5], 1, 2),
            case("aligned_strided", [1, 7, 6, 40], [3, 3], 2, 1),
            case("uneven_kernel", [1, 6, 7, 8], [2, 3], 1, 1),
            case("one_pixel", [2, 1, 1, 8], [3, 3], 1, 1),
        ]
    },
    workloads: || {
        let inputs = |x: [usize; 4]| [normal(x), normal([3, 3, x[3]])];
        let run = |x: &[Tensor]| x[0].depthwise_conv2d(&x[1], 1, 1);
        let gpu = [("8px_c2048", [256, 8, 8, 2048]), ("64px_c96", [16, 64, 64, 96])].map(|(name, x)| {
            let flops = 18.0 * x.iter().product::<usize>() as f64;
            Workload::gpu(format!("depthwise_{name}_3x3"), inputs(x), flops, run)
                .with(json!({ "stride": 1, "padding": 1 }))
        });
        let cpu = [("8px_c2048", [100, 8, 8, 2048]), ("64px_c96", [4, 64, 64, 96])]
            .map(|(name, x)| Workload::cpu(format!("depthwise_{name}_3x3"), inputs(x), run));
        gpu.into_iter().chain(cpu).collect()
    },
    reference: Some(|a| {
        let (stride, padding) = (a.int("stride")?, a.int("padding")?);
        Ok(only("y", a.tensor("x")?.depthwise_conv2d(a.tensor("weight")?, stride, padding)?))
    }),
};
