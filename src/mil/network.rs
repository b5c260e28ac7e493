//! What every method computes with: a patch encoder and an aggregator.
//!
//! Everything before the aggregator sees one patch at a time, so the patches of a whole batch of slides go through it
//! together and long slides pass in pieces; the aggregator sees the tokens of whole slides.

use crate::{
    device::{Device, host::HostBuffer},
    dtype::DType,
    error::{Error, Result},
    mil::features::{FeatureDims, PatchValues, Reads},
    nn::{norm::RunningStats, position::PositionKind, precision::ComputePrecision, vit::Sequences},
    random::Philox,
    shape::Shape,
    tensor::Tensor,
};

/// Sizes that the data give.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dims {
    pub features: FeatureDims,
    /// Values per slide: genes, or classes.
    pub genes: usize,
}

/// What a network wants of a patch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Input {
    pub reads: Reads,
    pub position: PositionKind,
    /// Numbers of a token, which positions are added to.
    pub width: usize,
}

impl Input {
    /// Of a network that knows no places.
    pub fn of(reads: Reads) -> Input {
        Input { reads, position: PositionKind::None, width: 0 }
    }

    /// What is uploaded of these places.
    pub(super) fn position(&self, coords: &[[f64; 2]]) -> Option<HostBuffer> {
        self.position.input(coords, self.width, DType::F32)
    }

    fn position_shape(&self, patches: usize) -> Shape {
        self.position.input_shape(patches, self.width)
    }
}

/// Features of patches on a device: what the network reads, nothing else.
#[derive(Clone, Default)]
pub struct Patches {
    /// `[n, global]`
    pub global: Option<Tensor>,
    /// `[n, grid, grid, cell]`
    pub cube: Option<Tensor>,
    /// [`PositionKind::input`] of their places.
    pub position: Option<Tensor>,
}

impl Patches {
    /// `n` patches' scaled features.
    ///
    /// # Errors
    /// `Shape` where they are of other sizes than `dims` says.
    pub fn upload(values: PatchValues, n: usize, input: &Input, dims: FeatureDims, device: &Device) -> Result<Patches> {
        let Reads { global, cube, .. } = input.reads;
        let [per_vector, per_cube] = [usize::from(global) * dims.global, usize::from(cube) * dims.cube()];
        if values.global.len() != n * per_vector || values.cube.len() != n * per_cube {
            let message = format!("{n} patches have {} and {} features", values.global.len(), values.cube.len());
            return Err(Error::shape("patches", message));
        }
        let position = input.position(&values.coords);
        let position = position.map(|v| Tensor::from_buffer(v, input.position_shape(n), device)).transpose()?;
        let FeatureDims { grid, cell, .. } = dims;
        Ok(Patches {
            global: global.then(|| Tensor::from_vec(values.global, [n, per_vector], device)).transpose()?,
            cube: cube.then(|| Tensor::from_vec(values.cube, [n, grid, grid, cell], device)).transpose()?,
            position,
        })
    }

    /// Other values of as many patches in the same memory.
    pub fn overwrite(&self, values: PatchValues, input: &Input) -> Result<()> {
        let position = input.position(&values.coords);
        let [global, cube] = [values.global, values.cube].map(HostBuffer::F32);
        let parts = [(&self.global, Some(global)), (&self.cube, Some(cube)), (&self.position, position)];
        for (tensor, values) in parts {
            if let (Some(tensor), Some(values)) = (tensor, values) {
                tensor.overwrite(values)?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// `Shape` where the method did not say that it reads them; so for the cubes.
    pub fn global(&self) -> Result<&Tensor> {
        self.global.as_ref().ok_or_else(|| Error::shape("patches", "global vectors were not read"))
    }

    pub fn cube(&self) -> Result<&Tensor> {
        self.cube.as_ref().ok_or_else(|| Error::shape("patches", "local cubes were not read"))
    }
}

/// What a training step brings along beside its batch: random numbers of its own, and room for running statistics.
pub struct TrainingStep {
    seed: u64,
    number: u32,
    /// Places of dropout passed so far.
    sites: usize,
    /// Which of the network's variants this step trains, from 0.
    pub variant: usize,
    pub stats: RunningStats,
}

impl TrainingStep {
    pub fn new(seed: u64, number: u32, variant: usize) -> TrainingStep {
        TrainingStep { seed, number, sites: 0, variant, stats: RunningStats::default() }
    }

    fn dropout(&mut self, x: Tensor, residual: Option<&Tensor>, rate: f64) -> Result<Tensor> {
        self.sites += 1;
        x.dropout_onto(residual, rate, Philox::named(self.seed, &format!("dropout {}", self.sites)), self.number)
    }
}

/// Whether a forward pass trains.
pub enum Mode<'a> {
    Evaluate,
    Train(&'a mut TrainingStep),
}

impl Mode<'_> {
    pub fn is_training(&self) -> bool {
        matches!(self, Mode::Train(_))
    }

    /// Drops values at this rate in training.
    pub fn dropout(&mut self, x: Tensor, rate: f64) -> Result<Tensor> {
        match self {
            Mode::Train(step) if rate > 0.0 => step.dropout(x, None, rate),
            _ => Ok(x),
        }
    }

    /// What [`VitBlock::forward`](crate::nn::vit::VitBlock::forward) takes: drops values of the first tensor at this rate and
    /// adds the second. `None` where nothing is dropped.
    pub fn drop_add(&mut self, rate: f64) -> Option<impl FnMut(Tensor, Option<&Tensor>) -> Result<Tensor>> {
        match self {
            Mode::Train(step) if rate > 0.0 => {
                Some(move |x: Tensor, residual: Option<&Tensor>| step.dropout(x, residual, rate))
            }
            _ => None,
        }
    }

    /// Keeps the running statistics that a part moved, under the part's name.
    pub fn moved(&mut self, part: &str, stats: RunningStats) {
        if let Mode::Train(step) = self {
            step.stats.extend(part, stats);
        }
    }

    /// Which variant is trained; `None` in evaluation, which is of all of them.
    pub fn variant(&self) -> Option<usize> {
        match self {
            Mode::Evaluate => None,
            Mode::Train(step) => Some(step.variant),
        }
    }
}

/// Patches to tokens, each by itself (but for batch statistics in training).
pub trait PatchEncoder {
    /// `[n, width]`.
    fn tokens(&self, patches: &Patches, mode: &mut Mode) -> Result<Tensor>;

    /// Where it looks within each patch.
    fn maps(&self, patches: &Patches) -> Result<Vec<PatchMap>> {
        let _ = patches;
        Ok(Vec::new())
    }
}

/// Tokens of whole slides to what is predicted of them.
pub trait Aggregator {
    /// Tokens `[rows, width]` of slides, one after another, to `[slides, genes]`. A slide's values do not depend on the
    /// slides beside it.
    fn pool(&self, tokens: &Tensor, slides: &Sequences, mode: &mut Mode) -> Result<Tensor>;

    /// Of one slide's tokens `[n, genes]` whose mean over the patches is exactly the prediction; `None` where patches do not
    /// add up.
    fn contributions(&self, tokens: &Tensor) -> Result<Option<Tensor>> {
        let _ = tokens;
        Ok(None)
    }

    /// Which patches of one slide it looks at.
    fn maps(&self, tokens: &Tensor) -> Result<Vec<PatchMap>> {
        let _ = tokens;
        Ok(Vec::new())
    }
}

/// One number per patch, or per cell of each patch's cube, for pictures.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PatchMap {
    /// Such as `attention`; equal names are of the same quantity in every network of a method.
    pub name: String,
    /// `[patches]`, or `[patches, grid, grid]`.
    pub values: Vec<f64>,
}

impl PatchMap {
    /// Weights of patches that sum to one.
    pub const ATTENTION: &'static str = "attention";
}

/// How one slide's prediction came about.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Explanation {
    /// `[genes]`.
    pub prediction: Vec<f64>,
    /// `[patches, genes]`: the prediction is their mean over the patches. `None` where the method is not additive.
    pub contribution: Option<Vec<f64>>,
    pub maps: Vec<PatchMap>,
}

impl Explanation {
    /// Weights of patches, where the method has them.
    pub fn attention(&self) -> Option<&[f64]> {
        self.maps.iter().find(|map| map.name == PatchMap::ATTENTION).map(|map| &map.values[..])
    }
}

/// A method's network.
pub struct Network {
    pub input: Input,
    pub encoder: Box<dyn PatchEncoder>,
    pub aggregator: Box<dyn Aggregator>,
    /// Forms of the network of which every training step draws one, such as the k of a top-k mean; 1 where it has one.
    pub variants: usize,
    /// Trained on every patch as a case of its own, with its slide's target: in training its output has a row for each.
    pub patchwise: bool,
    /// What patches are rounded to as they enter; the network's layers follow.
    pub precision: ComputePrecision,
}

impl Network {
    /// Of one form, in f32.
    pub fn new(input: Input, encoder: impl PatchEncoder + 'static, aggregator: impl Aggregator + 'static) -> Network {
        let (encoder, aggregator) = (Box::new(encoder), Box::new(aggregator));
        Network { input, encoder, aggregator, variants: 1, patchwise: false, precision: ComputePrecision::F32 }
    }

    /// `[n, width]`, each patch by itself (but for batch statistics in training).
    pub fn tokens(&self, patches: &Patches, mode: &mut Mode) -> Result<Tensor> {
        self.encoder.tokens(&self.narrowed(patches)?, mode)
    }

    fn narrowed(&self, patches: &Patches) -> Result<Patches> {
        let narrowed = |x: &Option<Tensor>| x.as_ref().map(|x| self.precision.narrowed(x)).transpose();
        let (global, cube) = (narrowed(&patches.global)?, narrowed(&patches.cube)?);
        Ok(Patches { global, cube, position: patches.position.clone() })
    }

    /// `[slides, genes]` of the tokens of slides, one after another.
    pub fn pool(&self, tokens: &Tensor, slides: &Sequences, mode: &mut Mode) -> Result<Tensor> {
        self.aggregator.pool(tokens, slides, mode)?.widened()
    }

    /// `[slides, genes]` of slides whose patches lie one after another.
    pub fn forward(&self, patches: &Patches, slides: &Sequences, mode: &mut Mode) -> Result<Tensor> {
        let tokens = self.tokens(patches, mode)?;
        slides.check("network", tokens.shape().rows())?;
        self.pool(&tokens, slides, mode)
    }

    /// One slide's prediction with what led to it.
    pub fn explain(&self, patches: &Patches) -> Result<Explanation> {
        let patches = &self.narrowed(patches)?;
        let tokens = self.encoder.tokens(patches, &mut Mode::Evaluate)?;
        let n = tokens.shape().rows();
        let mut maps = self.encoder.maps(patches)?;
        maps.extend(self.aggregator.maps(&tokens)?);
        let contribution = self.aggregator.contributions(&tokens)?.map(|t| t.to_vec::<f64>()).transpose()?;
        let slide = Sequences::new(&[n], tokens.device())?;
        let prediction = self.pool(&tokens, &slide, &mut Mode::Evaluate)?.to_vec::<f64>()?;
        Ok(Explanation { prediction, contribution, maps })
    }
}
