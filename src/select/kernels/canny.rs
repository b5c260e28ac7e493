//! Canny's edges of a batch of images `u8 [n, h, w, 3]`, pixel for pixel those of [`crate::select::canny`] on every device.

use super::PATCHES;
use super::{
    shannon::images,
    texture::{GreyBatch, greys},
};
use crate::{
    device::{
        driver::DevicePtr,
        kernel::{Kernel, UNTYPED, blocks_for_each},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    kernel_params,
    op::{Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply_n, drawn, registry::Workload},
    select::canny::{self, Canny},
    shape::Spec,
    tape::Keep,
    tensor::Tensor,
};

impl Tensor {
    /// Edges of a batch `u8 [n, h, w, 3]`, `u8 [n, h, w]` of 255 and 0, and how many pixels of each image are edges, as scores
    /// `i32 [n, 2]`.
    pub fn canny_edges(&self, canny: &Canny) -> Result<[Tensor; 2]> {
        canny.check_parameters()?;
        apply_n(Edges { canny: *canny }, &[self])
    }
}

kernel_params! {
    struct ThinParams {
        batch: GreyBatch, state: DevicePtr, parent: DevicePtr, low: i32, high: i32, l2: u32, unused: u32
    }
    struct LinkParams {
        state: DevicePtr, parent: DevicePtr, edges: DevicePtr, counts: DevicePtr,
        width_px: u32, height_px: u32, blocks_each: u32, unused: u32
    }
}

const THREADS: u32 = 256;

const fn thin(name: &'static str) -> Kernel<ThinParams> {
    // SAFETY: only this file fills `ThinParams`, from the tensors and scratch memory of the launch and from their sizes.
    unsafe { Kernel::new(&modules::CANNY, name, THREADS, UNTYPED) }
}

const fn link(name: &'static str) -> Kernel<LinkParams> {
    // SAFETY: as above, `LinkParams`.
    unsafe { Kernel::new(&modules::CANNY, name, THREADS, UNTYPED) }
}

const THIN3: Kernel<ThinParams> = thin("thin3");
const THIN5: Kernel<ThinParams> = thin("thin5");
const THIN7: Kernel<ThinParams> = thin("thin7");
const LINK: Kernel<LinkParams> = link("link");
const MARK: Kernel<LinkParams> = link("mark");
const FINISH: Kernel<LinkParams> = link("finish");

const TILE: [usize; 2] = [64, 16];
/// Pixels that a block of the kernels after the thinning takes.
const BLOCK_PX: usize = 1024;
/// Places need 31 bits: the last one is the mark.
const MAX_PX: usize = 1 << 31;

struct Edges {
    canny: Canny,
}

impl Op for Edges {
    fn name(&self) -> &'static str {
        "canny_edges"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let [n, h, w, _] = images(self.name(), x[0])?;
        Ok(vec![Spec::new([n, h, w], DType::U8), Spec::new([n, 2], DType::I32)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let maps: Vec<Vec<u8>> = greys(args).iter().map(|grey| canny::edges(grey, &self.canny).values).collect();
        for ([low, high], map) in args.y::<i32>(1).as_chunks_mut().0.iter_mut().zip(&maps) {
            let count = map.iter().filter(|edge| **edge > 0).count();
            (*low, *high) = (count as u32 as i32, (count as u64 >> 32) as i32);
        }
        for (to, from) in args.y::<u8>(0).iter_mut().zip(maps.iter().flatten()) {
            *to = *from;
        }
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [n, h, w, _] = args.x[0].shape().nhwc().unwrap_or_default();
        let (edges, counts) = (args.y[0], args.y[1]);
        args.zero(&counts)?;
        let pixels = edges.elems();
        if pixels >= MAX_PX {
            return Err(Error::shape(self.name(), format!("{pixels} pixels in one batch; give fewer images")));
        }
        if pixels == 0 {
            return Ok(());
        }
        let (state, parent) = (args.scratch(pixels)?, args.scratch(4 * pixels)?);
        let (batch, tiles) = GreyBatch::of(args, TILE);
        let [low, high] = self.canny.levels();
        let l2 = u32::from(self.canny.l2);
        let thin = ThinParams { batch, state: state.ptr(), parent: parent.ptr(), low, high, l2, unused: 0 };
        let kernel = match self.canny.aperture {
            5 => &THIN5,
            7 => &THIN7,
            _ => &THIN3,
        };
        args.launch(kernel, DType::U8, blocks_for_each(n, tiles as u32), 0, &thin)?;
        let each = (h * w).div_ceil(BLOCK_PX);
        let link = LinkParams {
            state: state.ptr(),
            parent: parent.ptr(),
            edges: edges.ptr,
            counts: counts.ptr,
            width_px: w as u32,
            height_px: h as u32,
            blocks_each: each as u32,
            unused: 0,
        };
        let grid = blocks_for_each(n, each as u32);
        [&LINK, &MARK, &FINISH].into_iter().try_for_each(|kernel| args.launch(kernel, DType::U8, grid, 0, &link))
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

fn cases() -> Vec<Case> {
    let edges = |low: f64, high: f64, aperture: usize, l2: bool| {
        move |x: &[Tensor]| Ok(x[0].canny_edges(&Canny { low, high, aperture, l2 })?.to_vec())
    };
    let image = |shape: [usize; 4]| [drawn(shape, Draw::Bytes)];
    vec![
        Case::new("one pixel", image([1, 1, 1, 3]), edges(100.0, 200.0, 3, false)),
        // On noise, chains of candidates wind through the whole image: with a high threshold few are edges.
        Case::new("noise", image([2, 37, 70, 3]), edges(100.0, 620.0, 3, false)),
        Case::new("lengths", image([1, 20, 67, 3]), edges(90.0, 480.0, 3, true)),
        Case::new("whole tiles", image([1, 32, 128, 3]), edges(100.0, 200.0, 3, false)),
        Case::new("a line", image([3, 1, 90, 3]), edges(60.0, 300.0, 3, false)),
        Case::new("five", image([1, 17, 65, 3]), edges(900.0, 5200.0, 5, false)),
        Case::new("seven", image([2, 18, 33, 3]), edges(12000.0, 60000.0, 7, true)),
    ]
}

fn workloads() -> Vec<Workload> {
    vec![Workload::gpu("canny", [drawn(PATCHES, Draw::Bytes)], 0.0, |x| {
        Ok(x[0].canny_edges(&Canny::default())?[0].clone())
    })]
}

pub static SPEC: OpSpec = OpSpec {
    name: "canny",
    order: Order::None,
    kernels: &[THIN3.info(), THIN5.info(), THIN7.info(), LINK.info(), MARK.info(), FINISH.info()],
    cases,
    workloads,
    ..OpSpec::BARE
};
