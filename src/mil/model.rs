//! A trained network with everything it needs to predict a slide: its method and sizes, its genes, the scales of features and
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
        bags::Origin,
        config::TrainConfig,
        features::{FeatureDims, FeatureScale, Moments, PatchFeatures, PatchValues, READ_PATCHES},
        loss::Loss,
        method::{Fit, MethodConfig},
        network::{Dims, Explanation, Mode, Network, Patches},
        tasks::Task,
        training::Job,
    },
    nn::{
        builder::{Builder, Params},
        precision::ComputePrecision,
        vit::Sequences,
    },
    tensor::Tensor,
};

const FORMAT: &str = "isg-model-1";

/// What is known of a model beside its numbers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ModelHeader {
    format: String,
    #[serde(flatten)]
    pub method: MethodConfig,
    /// Of the features it reads.
    pub dims: FeatureDims,
    pub genes: Vec<String>,
    /// Which of the genes this model was trained for; a tuned model leaves the others to its parent.
    pub trained_genes: Vec<usize>,
    /// What it was tuned for; `None`: slides of all projects and every gene.
    pub task: Option<Task>,
    /// What its features came from.
    pub origin: Origin,
    pub targets: TargetScaler,
    /// What its outputs are.
    #[serde(default)]
    pub loss: Loss,
    /// The epoch its weights are of.
    pub epoch: u64,
    /// Mean validation correlation at that epoch, where there is one.
    pub valid_pearson: Option<f64>,
    /// What its passes computed in while it was trained, and do on GPUs; its weights are f32.
    pub precision: ComputePrecision,
    /// Of everything its weights follow from: says whether a run may keep this model.
    pub key: Digest,
}

impl ModelHeader {
    /// Of a model that is about to be trained.
    pub(crate) fn of_job(
        job: &Job,
        config: &TrainConfig,
        targets: TargetScaler,
        key: Digest,
        device: &Device,
    ) -> ModelHeader {
        let genes = job.set.genes.clone();
        // Closed forms are solved in f64.
        let precision = match config.method.fit() {
            Fit::Closed(_) => ComputePrecision::F32,
            Fit::Gradient => config.precision.on(device),
        };
        ModelHeader {
            format: FORMAT.to_string(),
            method: config.method.clone(),
            dims: job.set.dims,
            genes,
            trained_genes: job.genes.clone(),
            task: job.task.cloned(),
            origin: job.set.origin,
            targets,
            loss: config.loss(),
            epoch: 0,
            valid_pearson: None,
            precision,
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
        let text = file.metadata_value("header").ok_or_else(|| no_model("is no model".into()))?;
        let header: ModelHeader =
            serde_json::from_str(text).map_err(|e| no_model(format!("is no model of this version ({e})")))?;
        let genes = header.genes.len();
        let targets = [header.targets.offset.len(), header.targets.span.len()];
        if header.format != FORMAT || targets.iter().any(|&n| n != genes) {
            return Err(no_model(format!("is a model of format {:?} with unequal sizes", header.format)));
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
    pub network: Network,
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
        let dims = Dims { features: header.dims, genes: header.genes.len() };
        let network = header.method.network(&mut b, dims)?;
        let network = Network { precision: header.precision.on(device), ..network };
        Ok(Model { header, features, network, params: b.finish()?, checksum: None, device: device.clone() })
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
        let mut scale = |name: &str, width: usize| -> Result<Moments> {
            let mut part = |what: &str| {
                let values = scales.remove(&format!("{name}_{what}")).filter(|v| v.len() == width);
                values.ok_or_else(|| {
                    Error::input(path, format!("lacks scale.{name}_{what} of {width} values"), "train it again")
                })
            };
            Ok(Moments { mean: part("mean")?, std: part("std")? })
        };
        let reads = header.method.reads(header.dims);
        let features = FeatureScale {
            global: reads.global.then(|| scale("global", header.dims.global)).transpose()?,
            cube: reads.cube.then(|| scale("cube", header.dims.cell)).transpose()?,
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
        for (name, moments) in [("global", &features.global), ("cube", &features.cube)] {
            for (what, values) in moments.iter().flat_map(|m| [("mean", &m.mean), ("std", &m.std)]) {
                let tensor = Tensor::from_vec(values.clone(), [values.len()], any.device())?;
                tensors.push((format!("scale.{name}_{what}"), tensor));
            }
        }
        let text = serde_json::to_string(header).map_err(|e| Error::io(path, e.into()))?;
        checkpoint::write_tensors(path, &tensors, &BTreeMap::from([("header".to_string(), text)])).map(drop)
    }

    /// What its network reads of these patches.
    fn patches(&self, features: &dyn PatchFeatures, patches: &[usize]) -> Result<Patches> {
        let mut values = PatchValues::default();
        features.read(patches, self.network.input.reads, &mut values)?;
        self.features.apply(&mut values);
        Patches::upload(values, patches.len(), &self.network.input, self.header.dims, &self.device)
    }

    /// One slide's values, one per gene, on the targets' own scale. `features` are the [rows](crate::mil::method::Rows) of a
    /// method that has them; so below.
    pub fn predict(&self, features: &dyn PatchFeatures) -> Result<Vec<f64>> {
        let mut values = self.outputs(features)?;
        self.header.loss.read(&mut values, &self.header.targets);
        Ok(values)
    }

    /// What the network says: scaled expression, or logits.
    pub fn outputs(&self, features: &dyn PatchFeatures) -> Result<Vec<f64>> {
        let n = features.patches();
        if n == 0 {
            return Err(Error::Usage(
                "a slide without patches cannot be predicted; lower the selection threshold".into(),
            ));
        }
        let _precision = self.network.precision.enter(&self.device);
        let mut parts = Vec::new();
        for chunk in (0..n).collect::<Vec<_>>().chunks(READ_PATCHES) {
            parts.push(self.network.tokens(&self.patches(features, chunk)?, &mut Mode::Evaluate)?);
        }
        let tokens = match &parts[..] {
            [all] => all.clone(),
            _ => Tensor::concat(&parts.iter().collect::<Vec<_>>(), 0)?,
        };
        let slide = Sequences::new(&[n], tokens.device())?;
        self.network.pool(&tokens, &slide, &mut Mode::Evaluate)?.to_vec::<f64>()
    }

    /// One slide's prediction with what led to it: predictions on the targets' own scale, contributions too, or as logits.
    pub fn explain(&self, features: &dyn PatchFeatures) -> Result<Explanation> {
        let _precision = self.network.precision.enter(&self.device);
        let all: Vec<usize> = (0..features.patches()).collect();
        let mut explanation = self.network.explain(&self.patches(features, &all)?)?;
        self.header.loss.read(&mut explanation.prediction, &self.header.targets);
        let rows = explanation.contribution.iter_mut().flat_map(|c| c.chunks_exact_mut(self.header.genes.len().max(1)));
        rows.for_each(|row| self.header.targets.inverse(row));
        Ok(explanation)
    }
}
