//! What a method is: a way from a slide's patches to its expression.
//!
//! A method is one file of `mil/methods/` and one word in the list of [`super`]: its keys as a struct with serde's derives, a
//! [`MethodSpec`] that says what it is called and where it comes from, and [`Method`] for the keys, which builds its
//! [`Network`]. Most learn by gradients; one with a closed form has [`Fit::Closed`]. Bags, batches, training,
//! cross-validation, model files, the configuration, the command line, reports and tests go by the list; none of them knows a
//! method by name.

use std::{fmt::Debug, ops::Deref, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned, de::Error as _};
use serde_json::{Map, Value};

use super::METHODS;
use crate::{
    cohort::targets::TargetScaler,
    error::{Error, Result},
    mil::{
        bags::BagSet,
        config::TrainConfig,
        features::{FeatureDims, FeatureScale, HostFeatures, PatchFeatures, Reads},
        network::{Dims, Network},
    },
    nn::Builder,
    preset::Preset,
    shape::Shape,
};

/// Values of a method's keys by name.
pub type Parameters = Map<String, Value>;

/// Sixteen patches with the vectors and cubes of ISG's own encoders.
pub const ISG_SLIDE: (usize, FeatureDims) = (16, FeatureDims { global: 512, cell: 512, grid: 8 });

/// What is true of a method whatever its keys.
pub struct MethodSpec {
    /// As the configuration, folders and tables call it.
    pub name: &'static str,
    /// As people call it.
    pub title: &'static str,
    /// Where it comes from.
    pub cites: &'static str,
    /// Its keys by preset.
    pub preset: fn(Preset) -> Arc<dyn Method>,
    /// A slide as its paper has it: rows, and sizes of their features. What benches time it on.
    pub slide: (usize, FeatureDims),
    /// What its authors train it with, laid over the keys of the preset.
    pub training: fn(Preset, &mut TrainConfig),
    /// The method of these keys, all of them given. Use [`with`].
    pub with: fn(Parameters) -> Result<Arc<dyn Method>>,
    /// Small ones with every switch turned, which tests build and differentiate.
    pub cases: fn() -> Vec<Arc<dyn Method>>,
}

/// A method's keys.
pub trait Method: Keys + Debug + Send + Sync {
    /// # Errors
    /// `Usage` on the first key that cannot be.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// What it reads, where features of these sizes are at hand; what its [rows](Method::rows) are made of among it.
    fn reads(&self, available: FeatureDims) -> Reads;

    /// The network, its parameters handed out by `b`. Every parameter must be able to get a gradient.
    ///
    /// # Errors
    /// Sizes that do not fit each other, or stored weights that do not fit them.
    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network>;

    /// Whether it tells classes apart and can do nothing else.
    fn wants_labels(&self) -> bool {
        false
    }

    fn fit(&self) -> Fit<'_> {
        Fit::Gradient
    }

    /// Other rows in place of a slide's patches, such as means over clusters of them; a function of the features alone.
    ///
    /// # Errors
    /// Features that cannot be read.
    fn rows(&self, features: &dyn PatchFeatures) -> Result<Option<Rows>> {
        let _ = features;
        Ok(None)
    }

    /// Sizes of a row's features, where those of patches are these.
    fn row_dims(&self, patches: FeatureDims) -> FeatureDims {
        patches
    }

    /// The method that tuned networks are of, where their keys or rows differ: its parameters are the same.
    fn tuned(&self) -> Option<Arc<dyn Method>> {
        None
    }
}

/// How a method finds its parameters.
pub enum Fit<'a> {
    /// Step by step, on batches of slides.
    Gradient,
    /// All at once. Validation slides are trained on too, since nothing else would use them.
    Closed(&'a dyn ClosedForm),
}

/// A method whose parameters follow from the training slides at once.
pub trait ClosedForm {
    /// Every parameter of the network by name, row by row.
    ///
    /// # Errors
    /// Too few slides, or features that cannot be read.
    fn solve(&self, data: &TrainingData) -> Result<Vec<(String, Shape, Vec<f64>)>>;
}

/// What a closed form learns from.
pub struct TrainingData<'a> {
    pub set: &'a BagSet,
    pub slides: &'a [usize],
    /// What the network's input is scaled by.
    pub features: &'a FeatureScale,
    /// And its output.
    pub targets: &'a TargetScaler,
}

impl TrainingData<'_> {
    /// A slide's targets on the scale of the network's output; NaN where nothing was measured.
    pub fn targets_of(&self, slide: usize) -> Vec<f64> {
        let mut row = self.set.targets[slide].clone();
        self.targets.transform(&mut row);
        row
    }
}

/// Rows that stand for a slide's patches.
pub struct Rows {
    pub features: HostFeatures,
    /// For every patch the row that it is in; empty where rows are not made of patches.
    pub of_patch: Vec<usize>,
}

/// Keys as values, for configurations, model files and digests: whatever has serde's derives.
pub trait Keys {
    fn parameters(&self) -> Parameters;
}

impl<T: Method + Serialize> Keys for T {
    fn parameters(&self) -> Parameters {
        match serde_json::to_value(self) {
            Ok(Value::Object(parameters)) => parameters,
            _ => Parameters::new(),
        }
    }
}

/// For [`MethodSpec::with`]: the method of these keys, whose struct refuses those it does not know.
///
/// # Errors
/// `Usage`, naming the key.
pub fn with<M: Method + Serialize + DeserializeOwned + 'static>(parameters: Parameters) -> Result<Arc<dyn Method>> {
    let given: Vec<String> = parameters.keys().cloned().collect();
    let method: M = serde_json::from_value(Value::Object(parameters)).map_err(|e| Error::Usage(e.to_string()))?;
    // Keys that methods share are structs of their own within the method's, where serde cannot refuse unknown ones.
    let known = method.parameters();
    match given.iter().find(|key| !known.contains_key(*key)) {
        None => Ok(Arc::new(method)),
        Some(key) => {
            let known: Vec<&str> = known.keys().map(String::as_str).collect();
            Err(Error::Usage(format!("unknown key `{key}`; its keys are {}", known.join(", "))))
        }
    }
}

/// A method with its keys. Written as `method = "NAME"` and a table NAME beside it.
#[derive(Clone)]
pub struct MethodConfig {
    spec: &'static MethodSpec,
    keys: Arc<dyn Method>,
}

impl MethodConfig {
    /// With the keys of a preset.
    pub fn preset(spec: &'static MethodSpec, preset: Preset) -> MethodConfig {
        MethodConfig { spec, keys: (spec.preset)(preset) }
    }

    /// With these keys, all of them given.
    ///
    /// # Errors
    /// `Usage` on an unknown key, a missing one, or a value of another kind.
    pub fn with(spec: &'static MethodSpec, parameters: Parameters) -> Result<MethodConfig> {
        let keys = (spec.with)(parameters).map_err(|e| Error::Usage(format!("{}: {e}", spec.name)))?;
        Ok(MethodConfig { spec, keys })
    }

    pub fn spec(&self) -> &'static MethodSpec {
        self.spec
    }

    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    /// That of tuned networks, where it is another one.
    pub fn tuned(&self) -> Option<MethodConfig> {
        Some(MethodConfig { spec: self.spec, keys: self.keys.tuned()? })
    }

    /// The same with keys changed by `change`.
    ///
    /// # Errors
    /// As [`MethodConfig::with`].
    pub fn changed(&self, change: impl FnOnce(&mut Parameters)) -> Result<MethodConfig> {
        let mut parameters = self.parameters();
        change(&mut parameters);
        MethodConfig::with(self.spec, parameters)
    }
}

impl Deref for MethodConfig {
    type Target = dyn Method;

    fn deref(&self) -> &(dyn Method + 'static) {
        &*self.keys
    }
}

impl PartialEq for MethodConfig {
    fn eq(&self, other: &MethodConfig) -> bool {
        self.name() == other.name() && self.parameters() == other.parameters()
    }
}

impl Debug for MethodConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} {:?}", self.name(), self.keys)
    }
}

/// The key that names a method.
pub(super) const METHOD: &str = "method";

impl Serialize for MethodConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let table = (self.name().to_string(), Value::Object(self.parameters()));
        Parameters::from_iter([(METHOD.to_string(), self.name().into()), table]).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for MethodConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MethodConfig, D::Error> {
        let mut table = Parameters::deserialize(deserializer)?;
        let name = table.remove(METHOD).unwrap_or_default();
        let spec = named(name.as_str().unwrap_or_default()).map_err(D::Error::custom)?;
        let parameters = match table.remove(spec.name) {
            Some(Value::Object(parameters)) => parameters,
            Some(_) => return Err(D::Error::custom(format!("{} is a table of keys", spec.name))),
            None => Parameters::new(),
        };
        if let Some(key) = table.keys().next() {
            let hint = match METHODS.iter().find(|spec| spec.name == key) {
                Some(_) => format!(": these are keys of another method than {}", spec.name),
                None if key == "model" => format!(": the keys of the network are in the table {}", spec.name),
                None => String::new(),
            };
            return Err(D::Error::custom(format!("unknown key `{key}`{hint}")));
        }
        MethodConfig::with(spec, parameters).map_err(D::Error::custom)
    }
}

/// The method of this name.
///
/// # Errors
/// `Usage`, with the names there are.
pub fn named(name: &str) -> Result<&'static MethodSpec> {
    let names = || METHODS.iter().map(|spec| spec.name).collect::<Vec<_>>().join(", ");
    METHODS
        .iter()
        .find(|spec| spec.name == name)
        .copied()
        .ok_or_else(|| Error::Usage(format!("there is no method `{name}`; choose one of {}", names())))
}
