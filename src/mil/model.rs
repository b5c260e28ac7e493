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
    io::{checkpoint, checksum::Digest, safetensors::SafetensorsFile},
    mil::{
        bags::{FeatureScale, Origin, PatchFeatures, READ_PATCHES},
        manifest::Task,
        regressor::{Dims, Explanation, Mode, Regressor, RegressorConfig},
        training::Job,
    },
    nn::{
        builder::{Builder, Params},
        vit::Sequences,
    },
    tensor::Tensor,
};

const FORMAT: &str = "isg-regressor-2";

/// What is known of a model beside its numbers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ModelHeader {
    format: String,
    pub config: RegressorConfig,
    pub dims: Dims,
    pub genes: Vec<String>,
    /// Which of the genes this model was trained for; a tuned model leaves the others to its parent.
    pub trained_genes: Vec<usize>,
    /// What it was tuned for; `None`: slides of all projects and every gene.
    pub task: Option<Task>,
    /// What its features came from.
    pub origin: Origin,
    pub targets: TargetScaler,
    /// The epoch its weights are of.
    pub epoch: u64,
    /// Mean validation correlation at that epoch, where there is one.
    pub valid_pearson: Option<f64>,
    /// Of everything its weights follow from: says whether a run may keep this model.
    pub key: Digest,
}

impl ModelHeader {
    /// Of a model that is about to be trained.
    pub(crate) fn of_job(job: &Job, config: RegressorConfig, targets: TargetScaler, key: Digest) -> ModelHeader {
        let genes = job.set.genes.clone();
        ModelHeader {
            format: FORMAT.to_string(),
            config,
            dims: Dims { width: job.set.width, grid: job.set.grid, genes: genes.len() },
            genes,
            trained_genes: job.genes.clone(),
            task: job.task.cloned(),
            origin: job.set.origin,
            targets,
            epoch: 0,
            valid_pearson: None,
            key,
        }
    }

    /// Of a stored model whose every byte was checked.
    pub fn read(path: &Path) -> Result<ModelHeader> {
        ModelHeader::of(&SafetensorsFile::open_own(path)?)
    }

    fn of(file: &SafetensorsFile) -> Result<ModelHeader> {
        let no_model =
            |what: String| Error::input(file.path(), what, "name the model of a finished `isg train` or `isg run`");
        let text = file.metadata_value("header").ok_or_else(|| no_model("is no regressor".into()))?;
        let header: ModelHeader =
            serde_json::from_str(text).map_err(|e| no_model(format!("is no regressor of this version ({e})")))?;
        let genes = header.genes.len();
        let targets = [header.targets.offset.len(), header.targets.span.len(), header.dims.genes];
        if header.format != FORMAT || targets.iter().any(|&n| n != genes) {
            return Err(no_model(format!("is a regressor of format {:?} with unequal sizes", header.format)));
        }
        if header.trained_genes.iter().any(|&gene| gene >= genes) {
            return Err(no_model(format!("was trained for a gene beyond its {genes}")));
        }
        let usable = |offset: &f64, span: &f64| offset.is_finite() && span.is_finite() && *span != 0.0;
        if !header.targets.offset.iter().zip(&header.targets.span).all(|(offset, span)| usable(offset, span)) {
            return Err(no_model("holds a NaN scale of its targets".into()));
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
    /// Of the file it was read from.
    pub checksum: Option<Digest>,
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
        Ok(Model { header, features, regressor, params: b.finish()?, checksum: None, device: device.clone() })
    }

    /// # Errors
    /// `Input` where the file is damaged, no model, or holds NaN or infinite values.
    pub fn load(path: &Path, device: &Device) -> Result<Model> {
        let file = SafetensorsFile::open_own(path)?;
        let header = ModelHeader::of(&file)?;
        let tensors = checkpoint::tensors_of(&file, device)?;
        if let Some(name) = checkpoint::not_finite(&tensors)? {
            let problem = format!("holds NaN or infinite values, in {name}");
            return Err(Error::input(path, problem, "train it again"));
        }
        let mut weights = HashMap::new();
        let mut scales: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        for (name, tensor) in tensors {
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
        let model = Model::of_weights(header, features, weights, &path.display().to_string(), device)?;
        Ok(Model { checksum: file.checksum(), ..model })
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
        checkpoint::write_tensors(path, &tensors, &BTreeMap::from([("header".to_string(), text)])).map(drop)
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
