//! A convolution, or a transposed one, of an image whose channels are scaled per image by the styles before and by the demodulation
//! coefficients (dcoefs) after: what is left of a modulated convolution once its filters are taken out.
//!
//! `y_i = dcoefs_i ∘ F(x_i ∘ styles_i, w)`, `F` linear in both, then an epilogue. Its input gradient is of the same kind with `F`
//! transposed and the roles of styles and dcoefs exchanged, so every order exists.

use rayon::prelude::*;

use crate::{
    conv2d::{Conv2d, Geometry},
    cpu::conv2d::{forward, input_gradient},
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{KernelInfo, concat},
        modules,
    },
    error::{Error, Result},
    float_dispatch,
    gemm::{
        Family, family,
        implicit::{ConvParams, ImplicitGemm},
        splitk::splitk_reduce,
    },
    kernel_params,
    op::{DeviceArgs, HostArgs, Op, apply1, same_float},
    ops::{
        conv2d::convolution_macs,
        epilogue::{Epilogue, Fused},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

#[derive(Clone, Copy, Debug)]
pub(super) enum Map {
    /// `[n, h, w, c] -> [n, h', w', k]`
    Forward,
    /// `[n, h', w', k] -> [n, h, w, c]`, whose extents are given.
    Transposed([usize; 2]),
}

/// `(x, weight, styles)` or `(x, weight, styles, dcoefs)`, then the epilogue's; `weight` is `[k, r, s, c]` either way.
struct Modulated {
    conv: Conv2d,
    map: Map,
    dcoefs: bool,
    fused: Fused,
}

/// `styles` is `[n, channels of x]`, `dcoefs` `[n, channels of y]` and nowhere zero.
pub(super) fn modulated(
    x: &Tensor,
    weight: &Tensor,
    styles: &Tensor,
    dcoefs: Option<&Tensor>,
    conv: Conv2d,
    map: Map,
    epilogue: &Epilogue,
) -> Result<Tensor> {
    let mut inputs = vec![x, weight, styles];
    inputs.extend(dcoefs);
    let fused = epilogue.join(&mut inputs);
    apply1(Modulated { conv, map, dcoefs: dcoefs.is_some(), fused }, &inputs)
}

kernel_params! {
    struct ModulatedParams { conv: ConvParams, styles: DevicePtr, dcoefs: DevicePtr }
}

const FORWARD: Family<ModulatedParams> = family!(&modules::MODULATED_CONV2D, "fwd", K, K);
const TRANSPOSED: Family<ModulatedParams> = family!(&modules::MODULATED_CONV2D, "transposed", K, Mn);

pub(super) const KERNELS: [KernelInfo; 9] =
    concat(&[&FORWARD.infos(), &TRANSPOSED.infos(), &[splitk_reduce(&modules::MODULATED_CONV2D).info()]]);

impl Modulated {
    fn geometry(&self, x: Spec, weight: Spec) -> Result<Geometry> {
        let (Some(image), Some(weight)) = (x.shape.nhwc(), weight.shape.nhwc()) else {
            let message = format!("{} and weight {}: four axes wanted", x.shape, weight.shape);
            return Err(Error::shape(self.name(), message));
        };
        match self.map {
            Map::Forward => Geometry::new(self.name(), self.conv, image, weight),
            Map::Transposed([h, w]) => {
                let g = Geometry::new(self.name(), self.conv, [image[0], h, w, weight[3]], weight)?;
                if g.y() == image {
                    return Ok(g);
                }
                Err(Error::shape(self.name(), format!("{image:?} does not arise from {h}x{w}, weight {weight:?}")))
            }
        }
    }

    fn y(&self, g: &Geometry) -> [usize; 4] {
        match self.map {
            Map::Forward => g.y(),
            Map::Transposed(_) => g.x(),
        }
    }
}

impl Op for Modulated {
    fn name(&self) -> &'static str {
        match self.map {
            Map::Forward => "modulated_conv2d",
            Map::Transposed(_) => "modulated_conv2d_transposed",
        }
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        let g = self.geometry(x[0], x[1])?;
        let (channels, y) = (x[0].shape.last(), self.y(&g));
        let fits = |spec: &Spec, channels: usize| *spec.shape == [g.n, channels];
        if !fits(&x[2], channels) || (self.dcoefs && !fits(&x[3], y[3])) {
            let message = format!("styles {} for {} images of {channels} channels", x[2].shape, g.n);
            return Err(Error::shape(self.name(), message));
        }
        let y = Spec::new(y, dtype);
        self.fused.check(self.name(), x, y, false)?;
        Ok(vec![y])
    }

    fn macs(&self, x: &[Spec], y: &[Spec]) -> u64 {
        match self.map {
            Map::Forward => convolution_macs(y[0].shape, x[1].shape),
            Map::Transposed(_) => convolution_macs(x[0].shape, x[1].shape),
        }
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let spec = |i: usize| Spec { shape: args.x_shape(i), dtype: args.x_dtype(i) };
        let g = self.geometry(spec(0), spec(1))?;
        let (x_shape, y_shape) = (args.x_shape(0), args.y_shape(0));
        let row = |shape: crate::Shape| [shape[2] * shape[3], shape[1]];
        float_dispatch!(args, T => {
            let dcoefs = self.dcoefs.then(|| args.x::<T>(3));
            let epilogue = self.fused.host::<T>(args);
            let mut x = args.x::<T>(0).to_vec();
            scale_rows(&mut x, row(x_shape), args.x(2), x_shape.last());
            let weight = args.x::<T>(1);
            let y = args.y::<T>(0);
            match self.map {
                Map::Forward => forward::<T>(&g, &x, weight, y, false),
                Map::Transposed(_) => input_gradient::<T>(&g, &x, weight, y),
            }
            if let Some(dcoefs) = dcoefs {
                scale_rows(y, row(y_shape), dcoefs, y_shape.last());
            }
            epilogue.apply(y_shape.last(), y, None);
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let g = self.geometry(args.x[0].spec, args.x[1].spec)?;
        let (family, gemm) = match self.map {
            Map::Forward => (&FORWARD, ImplicitGemm::forward(self.name(), &g)),
            Map::Transposed(_) => (&TRANSPOSED, ImplicitGemm::input_gradient(self.name(), &g)),
        };
        let dcoefs = if self.dcoefs { args.x[3].ptr } else { DevicePtr::NULL };
        let epilogue = self.fused.device(args, None);
        gemm.launch(args, &g, family, epilogue, |conv| ModulatedParams { conv, styles: args.x[2].ptr, dcoefs })
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dcoefs = self.dcoefs.then(|| v.x(3));
        let backprop = self.fused.backprop(v)?;
        let dsum = &backprop.dsum;
        let mut all: Vec<_> = factor_gradients(v, self.conv, self.map, v.x(1), dcoefs, dsum)?.into();
        if let Some(dcoefs) = dcoefs {
            all.push(v.when(3, || over_pixels(&self.fused.by_sum(v, dsum)?)?.div(dcoefs))?);
        }
        all.extend(self.fused.gradients(v, &backprop)?);
        Ok(all)
    }

    fn keep(&self) -> Keep {
        Keep::ALL
    }
}

/// Gradients of `x`, `weight` and `styles`, the first three inputs, from that of the map's result before an epilogue; the weight is
/// given as the map takes it.
pub(super) fn factor_gradients(
    v: &Vjp,
    conv: Conv2d,
    map: Map,
    weight: &Tensor,
    dcoefs: Option<&Tensor>,
    dy: &Tensor,
) -> Result<[Option<Tensor>; 3]> {
    let (x, styles) = (v.x(0), v.x(2));
    let along = |factors: &Tensor| factors.reshape([factors.shape()[0], 1, 1, factors.shape().last()]);
    // The gradient of `x ∘ styles`, which both of them need.
    let towards_x = || -> Result<Tensor> {
        let ([_, h, w, _], plain) = (v.x_spec(0).shape.nhwc().unwrap_or([0; 4]), Epilogue::default());
        match (map, dcoefs) {
            (Map::Forward, Some(dcoefs)) => modulated(dy, weight, dcoefs, None, conv, Map::Transposed([h, w]), &plain),
            (Map::Forward, None) => dy.conv2d_input_gradient(weight, [h, w], conv),
            (Map::Transposed(_), Some(dcoefs)) => modulated(dy, weight, dcoefs, None, conv, Map::Forward, &plain),
            (Map::Transposed(_), None) => dy.conv2d(weight, None, conv),
        }
    };
    let inner = if v.need(0) || v.need(2) { Some(towards_x()?) } else { None };
    let dx = inner.as_ref().filter(|_| v.need(0)).map(|inner| inner.mul(&along(styles)?)).transpose()?;
    let dstyles = inner.as_ref().filter(|_| v.need(2)).map(|inner| over_pixels(&inner.mul(x)?)).transpose()?;
    let dweight = v.when(1, || {
        let x = x.mul(&along(styles)?)?;
        let dy = dcoefs.map_or_else(|| Ok(dy.clone()), |dcoefs| dy.mul(&along(dcoefs)?))?;
        let [_, r, s, _] = weight.shape().nhwc().unwrap_or([0; 4]);
        match map {
            Map::Forward => x.conv2d_weight_gradient(&dy, [r, s], conv),
            Map::Transposed(_) => dy.conv2d_weight_gradient(&x, [r, s], conv),
        }
    })?;
    Ok([dx, dweight, dstyles])
}

/// `[n, h, w, c] -> [n, c]`
pub(super) fn over_pixels(t: &Tensor) -> Result<Tensor> {
    t.sum(&[1, 2])?.reshape([t.shape()[0], t.shape().last()])
}

/// Multiplies the pixels of each image by its factors, row by row: `row` is the length of a row and the rows of an image.
pub(super) fn scale_rows<T: Real>(x: &mut [T], [row, rows]: [usize; 2], factors: &[T], channels: usize) {
    if row == 0 {
        return;
    }
    x.par_chunks_mut(row).enumerate().with_min_len(4096_usize.div_ceil(row)).for_each(|(i, x)| {
        let factors = &factors[i / rows * channels..][..channels];
        for pixel in x.chunks_exact_mut(channels) {
            for (x, &factor) in pixel.iter_mut().zip(factors) {
                *x *= factor;
            }
        }
    });
}
