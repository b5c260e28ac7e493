//! A trained regressor with everything it needs to predict a slide: its sizes, its genes, the scales of features and
//! targets. One safetensors file; weights under `model.`, scales under `scale.`, the rest as JSON in the header.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    cohort::targets::TargetScaler,
    device::Device,
    dtype::DType,
    error::{Error, Result},
    io::{checkpoint, safetensors::SafetensorsFile},
    mil::{
        bags::{FeatureScale, PatchFeatures, READ_PATCHES},
        regressor::{Dims, Explanation, Mode, Regressor, RegressorConfig},
    },
    nn::{
        builder::{Builder, Params},
        vit::Sequences,
    },
    tensor::Tensor,
};

const FORMAT: &str = "isg-regressor-1";

/// What is known of a model beside its numbers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ModelHeader {
    format: String,
    pub config: RegressorConfig,
    pub dims: Dims,
    pub genes: Vec<String>,
    /// Which of the genes this model was trained for; a tuned model leaves the others to its parent.
    pub trained_genes: Vec<usize>,
    pub targets: TargetScaler,
    /// The epoch its weights are of.
    pub epoch: u64,
    /// Mean validation correlation at that epoch, where there is one.
    pub valid_pearson: Option<f64>,
    /// Of configuration, slides, targets and feature scales: says whether a run may keep this model.
    pub fingerprint: String,
}

impl ModelHeader {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        config: RegressorConfig,
        dims: Dims,
        genes: Vec<String>,
        trained_genes: Vec<usize>,
        targets: TargetScaler,
        fingerprint: String,
    ) -> ModelHeader {
        let format = FORMAT.to_string();
        ModelHeader { format, config, dims, genes, trained_genes, targets, epoch: 0, valid_pearson: None, fingerprint }
    }

    /// Of a stored model, without reading its weights.
    pub fn read(path: &Path) -> Result<ModelHeader> {
        let file = SafetensorsFile::open(path)?;
        let no_model = |what: String| Error::input(path, what, "name the model of a finished `isg train` or `isg run`");
        let text = file.metadata_value("header").ok_or_else(|| no_model("is no regressor".into()))?;
        let header: ModelHeader =
            serde_json::from_str(text).map_err(|e| no_model(format!("is no regressor of this version ({e})")))?;
        let genes = header.genes.len();
        let targets = [header.targets.offset.len(), header.targets.span.len(), header.dims.genes];
        if header.format != FORMAT || targets.iter().any(|&n| n != genes) {
            return Err(no_model(format!("is a regressor of format {:?} with unequal sizes", header.format)));
        }
        Ok(header)
    }
}

/// A network ready to predict.
pub struct Model {
    pub header: ModelHeader,
    pub features: FeatureScale,
    pub regressor: Regressor,
    pub params: Params,
    device: Device,
}

impl Model {
    /// Fresh weights.
    pub fn fresh(header: ModelHeader, features: FeatureScale, seed: u64, device: &Device) -> Result<Model> {
        Model::build(header, features, Builder::fresh(seed, DType::F32, device), device)
    }

    /// Given weights; `origin` names where they come from in errors.
    pub fn of_weights(
        header: ModelHeader,
        features: FeatureScale,
        weights: HashMap<String, Tensor>,
        origin: &str,
        device: &Device,
    ) -> Result<Model> {
        Model::build(header, features, Builder::load(weights, origin, DType::F32, device), device)
    }

    fn build(header: ModelHeader, features: FeatureScale, mut b: Builder, device: &Device) -> Result<Model> {
        let regressor = Regressor::new(&mut b, &header.config, header.dims)?;
        Ok(Model { header, features, regressor, params: b.finish()?, device: device.clone() })
    }

    pub fn load(path: &Path, device: &Device) -> Result<Model> {
        let header = ModelHeader::read(path)?;
        let mut weights = HashMap::new();
        let mut scales: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        for (name, tensor) in checkpoint::read_tensors(path, device)? {
            match (name.strip_prefix("model."), name.strip_prefix("scale.")) {
                (Some(name), _) => drop(weights.insert(name.to_string(), tensor)),
                (_, Some(name)) => drop(scales.insert(name.to_string(), tensor.to_vec()?)),
                _ => {}
            }
        }
        let mut scale = |name: &str| {
            let values = scales.remove(name).filter(|v| v.len() == header.dims.width);
            values.ok_or_else(|| {
                Error::input(path, format!("lacks scale.{name} of {} values", header.dims.width), "train it again")
            })
        };
        let features = FeatureScale {
            global_mean: scale("global_mean")?,
            global_span: scale("global_span")?,
            local_mean: scale("local_mean")?,
            local_span: scale("local_span")?,
        };
        Model::of_weights(header, features, weights, &path.display().to_string(), device)
    }

    /// Writes the model with these weights, whole or not at all.
    pub fn write(
        path: &Path,
        header: &ModelHeader,
        features: &FeatureScale,
        weights: &[(String, Tensor)],
    ) -> Result<()> {
        let Some((_, any)) = weights.first() else { return Err(Error::shape("model", "no weights to write")) };
        let mut tensors: Vec<(String, Tensor)> =
            weights.iter().map(|(name, tensor)| (format!("model.{name}"), tensor.clone())).collect();
        let FeatureScale { global_mean, global_span, local_mean, local_span } = features;
        let scales = [
            ("global_mean", global_mean),
            ("global_span", global_span),
            ("local_mean", local_mean),
            ("local_span", local_span),
        ];
        for (name, values) in scales {
            let tensor = Tensor::from_vec(values.clone(), [values.len()], any.device())?;
            tensors.push((format!("scale.{name}"), tensor));
        }
        let text = serde_json::to_string(header).map_err(|e| Error::io(path, e.into()))?;
        checkpoint::write_tensors(path, &tensors, &BTreeMap::from([("header".to_string(), text)]))
    }

    /// The tensors that its forward pass reads of these patches: cubes `[n, g, g, d]` and global vectors `[n, d]`.
    fn inputs(&self, features: &dyn PatchFeatures, patches: &[usize]) -> Result<(Tensor, Tensor)> {
        let (mut globals, mut locals) = (Vec::new(), Vec::new());
        features.read(patches, &mut globals, &mut locals)?;
        self.features.global(&mut globals);
        self.features.local(&mut locals);
        let (n, Dims { width, grid, .. }) = (patches.len(), self.header.dims);
        if globals.len() != n * width || locals.len() != n * grid * grid * width {
            let message = format!("{n} patches have {} and {} features", globals.len(), locals.len());
            return Err(Error::shape("regressor", message));
        }
        let cubes = Tensor::from_vec(locals, [n, grid, grid, width], &self.device)?;
        Ok((cubes, Tensor::from_vec(globals, [n, width], &self.device)?))
    }

    /// Expression of one slide, one value per gene, on the targets' own scale.
    pub fn predict(&self, features: &dyn PatchFeatures) -> Result<Vec<f64>> {
        let mut values = self.predict_scaled(features)?;
        self.header.targets.inverse(&mut values);
        Ok(values)
    }

    /// As [`Model::predict`], on the scale that the network was trained on.
    pub fn predict_scaled(&self, features: &dyn PatchFeatures) -> Result<Vec<f64>> {
        let n = features.patches();
        if n == 0 {
            return Err(Error::Usage(
                "a slide without patches cannot be predicted; lower the selection threshold".into(),
            ));
        }
        let mut parts = Vec::new();
        for chunk in (0..n).collect::<Vec<_>>().chunks(READ_PATCHES) {
            let (cubes, globals) = self.inputs(features, chunk)?;
            parts.push(self.regressor.tokens(&cubes, &globals, &mut Mode::Evaluate)?);
        }
        let tokens = match &parts[..] {
            [all] => all.clone(),
            _ => Tensor::concat(&parts.iter().collect::<Vec<_>>(), 0)?,
        };
        let slide = Sequences::new(&[n], tokens.device())?;
        self.regressor.predict(&tokens, &slide, &mut Mode::Evaluate)?.to_vec::<f64>()
    }

    /// One slide's prediction with what led to it, predictions and contributions on the targets' own scale.
    pub fn explain(&self, features: &dyn PatchFeatures) -> Result<Explanation> {
        let all: Vec<usize> = (0..features.patches()).collect();
        let (cubes, globals) = self.inputs(features, &all)?;
        let mut explanation = self.regressor.explain(&cubes, &globals)?;
        self.header.targets.inverse(&mut explanation.prediction);
        for row in explanation.contribution.chunks_exact_mut(self.header.dims.genes.max(1)) {
            self.header.targets.inverse(row);
        }
        Ok(explanation)
    }
}
