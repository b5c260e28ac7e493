//! `isg run CONFIG.toml`: every key of a run. Whatever a file does not name has the default of its `preset`; paths are
//! relative to the file.
//!
//! ```toml
//! preset = "small"            # or "paper"
//! seed = 1
//! precision = "bf16"          # or tf32, f32: what networks compute in on a GPU; on the CPU it is f32
//! out = "run"
//! [cohort]
//! slides = "slides"
//! expression = "expression.tsv"
//! genes = ["CD3D", "MKI67"]
//! [select]
//! patch_px = 1024             # p
//! local_px = 128              # q
//! selector = "shannon"        # or otsu, gradient, canny, dog, log, dexined, table
//! mpp = 0.5                   # µm per pixel of patches; left out: level-0 pixels, as in the paper
//! sigma = 0.0                 # or bits, bits_per_px (shannon), min, top
//! scope = "run"               # or "slide": what the mean and sd of sigma are taken over
//! regions = "annotations"     # SLIDE.geojson from QuPath: patches with their centre in a polygon are all there are; left out: all
//! region_classes = ["Tumor"]  # of annotations; left out: all but QuPath's ignored ones
//! [encoder]                   # what turns patches into vectors; see `isg::encoder`
//! kind = "isg"                # or untrained, colour, texture-words, resnet18, resnet50, efficientnet-lite0, vit, file
//! [extractor]                 # both pairs; [extractor.global] and [extractor.local] are laid over it
//! steps = 20000
//! patches = "kept"            # or "tissue": what an encoder that learns is trained on
//! [train]
//! method = "isg"              # `isg methods` lists them
//! epochs = 50
//! isg.vit_depth = 12
//! [[compare]]                 # another method on the same folds and features; left out: ridge, mean-mlp and colour; compare = []: none
//! method = "ridge"
//! [splits]
//! folds = 5
//! repeats = 1                 # passes through the whole cross-validation, each with other folds
//! ```

use std::{
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    cohort::{CohortConfig, SplitConfig},
    encoder::EncoderConfig,
    error::{Error, Result},
    extractor::config::ExtractorConfig,
    io::{sealed, text},
    mil::{config::TrainConfig, loss::Loss},
    nn::precision::ComputePrecision,
    preset::Preset,
    select::{Choice, SELECTORS, Scope, Selector, Selectors, Threshold},
    slide::scale,
};

/// A whole run, resolved: what `config.toml` in the run directory holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// `paper`: the paper's sizes. `small`: the same networks for a CPU and tens of slides.
    pub preset: Preset,
    /// Everything random in a run follows from it.
    pub seed: u64,
    /// What encoders, trainings and predictions compute in on a GPU, where `[extractor]` and `[train]` do not say.
    #[serde(default)]
    pub precision: ComputePrecision,
    /// The run directory.
    pub out: PathBuf,
    pub cohort: CohortConfig,
    pub select: SelectConfig,
    /// What turns patches into vectors (paper 3.2).
    pub encoder: EncoderConfig,
    /// The StyleGAN pairs of the encoders that are one.
    pub extractor: Pair,
    pub train: TrainConfig,
    /// Methods that stand beside `train`'s in every table.
    pub compare: Vec<TrainConfig>,
    pub splits: SplitConfig,
}

/// Which patches are kept (paper 3.1), and the two patch sizes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SelectConfig {
    /// One of [`crate::select::SELECTORS`].
    pub selector: String,
    /// µm per pixel at which patches are cut ([`crate::slide::Plane`]); `None`: level-0 pixels, as in the paper.
    pub mpp: Option<f64>,
    /// Coarse patch side `p` in pixels of `mpp`.
    pub patch_px: usize,
    /// Fine patch side `q` in pixels of `mpp`; divides `patch_px`.
    pub local_px: usize,
    /// What the mean and the standard deviation of `sigma` are taken over: `run`, the patches of all slides that are not glass, or
    /// `slide`, all of each slide's own.
    pub scope: Scope,
    /// Kept by one of these; the default is `sigma = 0` over the run (`sigma = 1` with `scope = "slide"`), for `otsu`
    /// `min = 0.5`. `bits` and `bits_per_px` are for `shannon`; `top` counts on each slide.
    pub sigma: Option<f64>,
    pub bits: Option<f64>,
    pub bits_per_px: Option<f64>,
    pub min: Option<f64>,
    pub top: Option<usize>,
    /// A slide of which fewer pass keeps so many with the highest scores, glass excepted. 0 sets no limit.
    pub least_patches: usize,
    /// Of a slide of which more pass, so many are drawn at random by `seed`. 0 sets no limit.
    pub most_patches: usize,
    /// A folder with `SLIDE.geojson` of every slide: there are no patches but those whose centre lies in one of its polygons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions: Option<PathBuf>,
    /// Classes of annotations that count; where none is named, all but those that QuPath ignores.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub region_classes: Vec<String>,
    /// Parameters of the selectors, `[select.NAME]` each. Keys that are no selector's are refused here.
    #[serde(flatten)]
    pub selectors: Selectors,
}

impl Default for SelectConfig {
    fn default() -> SelectConfig {
        SelectConfig {
            selector: SELECTORS[0].name.into(),
            mpp: None,
            patch_px: 1024,
            local_px: 128,
            scope: Scope::default(),
            sigma: None,
            bits: None,
            bits_per_px: None,
            min: None,
            top: None,
            least_patches: 16,
            most_patches: 1000,
            regions: None,
            region_classes: Vec::new(),
            selectors: Selectors::default(),
        }
    }
}

impl SelectConfig {
    pub fn threshold(&self) -> Result<Threshold> {
        let given = [
            self.sigma.map(Threshold::Sigma),
            self.bits.map(Threshold::Bits),
            self.bits_per_px.map(Threshold::Min),
            self.min.map(Threshold::Min),
            self.top.map(Threshold::Top),
        ];
        let selector = self.selector()?;
        if self.bits_per_px.is_some() && !selector.counts_bits() {
            return Err(Error::Usage(format!("select: {} counts no bits; give min instead", selector.name())));
        }
        match given.iter().flatten().copied().collect::<Vec<_>>()[..] {
            [] => Ok(match selector.default_threshold() {
                Threshold::Sigma(_) => Threshold::Sigma(self.scope.default_sigma()),
                other => other,
            }),
            [one] => selector.accepts(one),
            _ => Err(Error::Usage("select: give one of sigma, bits, bits_per_px, min and top".into())),
        }
    }

    /// How patches are chosen, before the run's slides make it a number.
    pub fn choice(&self, seed: u64) -> Result<Choice> {
        let (least_patches, most_patches) = (self.least_patches, self.most_patches);
        Ok(Choice { threshold: self.threshold()?, scope: self.scope, least_patches, most_patches, seed })
    }

    pub fn selector(&self) -> Result<Arc<dyn Selector>> {
        self.selectors.named(&self.selector)
    }

    /// Fine patches along a side of a coarse one: the paper's p/q.
    pub fn grid(&self) -> usize {
        self.patch_px / self.local_px
    }
}

/// The patches that an encoder learns from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearnedFrom {
    /// Those that pass the threshold, as in the paper.
    #[default]
    Kept,
    /// All that are not glass, so that runs which select differently have the same encoder.
    Tissue,
}

/// The two pairs of extractor and generator (paper 3.2).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pair {
    pub patches: LearnedFrom,
    pub global: ExtractorConfig,
    pub local: ExtractorConfig,
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    Global,
    Local,
}

impl Scale {
    pub const BOTH: [Scale; 2] = [Scale::Global, Scale::Local];

    pub fn name(self) -> &'static str {
        match self {
            Scale::Global => "global",
            Scale::Local => "local",
        }
    }
}

impl Pair {
    pub fn get(&self, scale: Scale) -> &ExtractorConfig {
        match scale {
            Scale::Global => &self.global,
            Scale::Local => &self.local,
        }
    }

    /// From a table whose own keys hold for both, and whose `global` and `local` tables are laid over them.
    fn from_table(mut shared: toml::Table) -> Result<Pair> {
        let patches = take(&mut shared, "patches").map_err(|e| Error::Usage(format!("extractor.{e}")))?;
        let over = Scale::BOTH.map(|scale| shared.remove(scale.name()));
        let [global, local] = over.map(|over| {
            let mut table = shared.clone();
            if let Some(toml::Value::Table(over)) = over {
                overlay(&mut table, over);
            }
            ExtractorConfig::from_table(table).map_err(|e| Error::Usage(format!("extractor: {e}")))
        });
        Ok(Pair { patches: patches.unwrap_or_default(), global: global?, local: local? })
    }
}

/// Lays `over` onto `base`, table by table.
pub(super) fn overlay(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => overlay(base, over),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

/// What stands beside the method of a run that names nothing: linear and not, both on mean features, and what colours alone say.
const COMPARED: [&str; 3] = ["ridge", "mean-mlp", "colour"];

/// Keys of `[train]` that hold for every method, unless it has its own: how a comparison is done, not how a method learns.
const PROTOCOL: [&str; 8] =
    ["precision", "members", "parallel", "checkpoint_s", "loss", "target_scaling", "min_valid_slides", "fine_tune"];

impl RunConfig {
    /// The methods of the run, the one in question first.
    pub fn methods(&self) -> impl Iterator<Item = &TrainConfig> {
        [&self.train].into_iter().chain(&self.compare)
    }

    pub(super) fn methods_mut(&mut self) -> impl Iterator<Item = &mut TrainConfig> {
        [&mut self.train].into_iter().chain(&mut self.compare)
    }

    /// Reads a configuration; every relative path in it becomes relative to the file's folder.
    pub fn read(path: &Path) -> Result<RunConfig> {
        RunConfig::of(path, read_table(path)?)
    }

    /// That of a table which was read from `path`, and perhaps changed.
    pub(super) fn of(path: &Path, table: toml::Table) -> Result<RunConfig> {
        let wrong = |e: String| Error::input(path, e.trim().replace('\n', " "), "correct that key");
        let mut config = RunConfig::from_table(table).map_err(|e| wrong(e.to_string()))?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        config.out = folder.join(&config.out);
        config.resolve(folder);
        Ok(config)
    }

    /// Makes the paths of all inputs absolute, relative ones being relative to `base`. However a path was written, the run
    /// is the same.
    fn resolve(&mut self, base: &Path) {
        let base = &settled(Path::new("."), base);
        self.cohort.resolve(base);
        for path in self.cohort.slides.iter_mut().chain(&mut self.cohort.expression) {
            *path = settled(base, Path::new(path)).to_string_lossy().into_owned();
        }
        let CohortConfig { labels, sample_sheet, manifest, gene_map, .. } = &mut self.cohort;
        let cohort = [labels, sample_sheet, manifest, gene_map];
        let splits = [&mut self.splits.file, &mut self.splits.institutions];
        for path in cohort.into_iter().chain(splits).flatten() {
            *path = settled(base, path);
        }
        for ExtractorConfig { lpips, .. } in [&mut self.extractor.global, &mut self.extractor.local] {
            lpips.linear = settled(base, &lpips.linear);
            if lpips.is_trained() {
                lpips.weights = settled(base, Path::new(&lpips.weights)).to_string_lossy().into_owned();
            }
        }
        if let Some(regions) = &mut self.select.regions {
            *regions = settled(base, regions);
        }
        self.select.selectors.resolve(&|path| settled(base, path));
        self.encoder.resolve(&|path| settled(base, path));
    }

    /// The scales at which patches are encoded.
    pub fn scales(&self) -> Vec<Scale> {
        let used = [(Scale::Global, self.encoder.encodes_patches()), (Scale::Local, self.encoder.encodes_cells())];
        used.into_iter().filter_map(|(scale, used)| used.then_some(scale)).collect()
    }

    /// The same with an absolute run directory: it means the same wherever it is kept.
    pub(super) fn absolute(&self) -> RunConfig {
        RunConfig { out: settled(Path::new("."), &self.out), ..self.clone() }
    }

    /// Fills in what a table leaves out, section by section.
    pub fn from_table(mut table: toml::Table) -> Result<RunConfig> {
        let preset: Preset = take(&mut table, "preset")?.unwrap_or_default();
        let seed: u64 = take(&mut table, "seed")?.unwrap_or(0);
        let precision: ComputePrecision = take(&mut table, "precision")?.unwrap_or_default();
        let out = take(&mut table, "out")?.unwrap_or_else(|| PathBuf::from("run"));
        let cohort: CohortConfig =
            take(&mut table, "cohort")?.ok_or_else(|| Error::Usage("the section [cohort] is missing".into()))?;
        let mut select = selection(&mut table, preset)?;
        let encoder: EncoderConfig = take(&mut table, "encoder")?.unwrap_or_default();
        match (encoder.mpp.filter(|&mpp| mpp > 0.0), select.mpp) {
            (Some(mpp), Some(other)) if mpp != other => {
                return Err(Error::Usage(format!(
                    "encoder.mpp = {mpp}, select.mpp = {other}: patches are cut at one scale; give one of them"
                )));
            }
            (mpp, other) => select.mpp = other.or(mpp),
        }
        let mut section = |name: &str| -> Result<toml::Table> {
            let mut section: toml::Table = take(&mut table, name)?.unwrap_or_default();
            section.entry("preset").or_insert_with(|| preset.name().into());
            section.entry("seed").or_insert(toml::Value::Integer(seed as i64));
            let named = toml::Value::try_from(precision).map_err(Error::internal)?;
            section.entry("precision").or_insert(named);
            Ok(section)
        };
        let extractor = Pair::from_table(section("extractor")?)?;
        let mut train_keys = section("train")?;
        if cohort.labels.is_some() {
            train_keys.entry("loss").or_insert("bce".into());
        }
        let wrong = |name: &str, e: toml::de::Error| Error::Usage(format!("{name}: {}", e.message()));
        let train: TrainConfig = train_keys.clone().try_into().map_err(|e| wrong("train", e))?;
        let compared: Vec<toml::Table> = match take(&mut table, "compare")? {
            Some(tables) => tables,
            None => (COMPARED.iter().filter(|name| **name != train.name))
                .map(|name| toml::Table::from_iter([("method".to_string(), (*name).into())]))
                .collect(),
        };
        let of_protocol = train_keys
            .into_iter()
            .filter(|(key, _)| ["preset", "seed"].contains(&&**key) || PROTOCOL.contains(&&**key));
        let of_protocol: toml::Table = of_protocol.collect();
        let compare = compared.into_iter().map(|own| {
            let mut keys = of_protocol.clone();
            overlay(&mut keys, own);
            keys.try_into().map_err(|e| wrong("compare", e))
        });
        let compare = compare.collect::<Result<Vec<TrainConfig>>>()?;
        let mut splits: toml::Table = take(&mut table, "splits")?.unwrap_or_default();
        splits.entry("seed").or_insert(toml::Value::Integer(seed as i64));
        let splits = splits.try_into().map_err(|e| Error::Usage(format!("splits: {e}")))?;
        // What `isg reproduce` reads is no concern of a run.
        table.remove("reproduce");
        if let Some(unknown) = table.keys().next() {
            return Err(Error::Usage(format!(
                "unknown key `{unknown}`; known are preset, seed, precision, out, cohort, select, encoder, extractor, train, compare, splits, \
                 reproduce"
            )));
        }
        let config =
            RunConfig { preset, seed, precision, out, cohort, select, encoder, extractor, train, compare, splits };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        let SelectConfig { patch_px, local_px, .. } = self.select;
        if local_px == 0 || patch_px % local_px != 0 || !(16..=16_384).contains(&patch_px) {
            return Err(Error::Usage(format!(
                "select.patch_px = {patch_px}, select.local_px = {local_px}: the second divides the first, which goes from 16 to 16384"
            )));
        }
        self.select.threshold()?;
        if let Some(mpp) = self.select.mpp {
            scale::check_override(mpp).map_err(|e| Error::Usage(format!("select.mpp: {e}")))?;
        }
        let Pair { global, local, .. } = &self.extractor;
        global.validate()?;
        local.validate()?;
        for (number, method) in self.methods().enumerate() {
            method.validate()?;
            if method.method.wants_labels() && method.loss != Loss::Bce {
                let name = &method.name;
                return Err(Error::Usage(format!(
                    "{name} tells two classes apart: give cohort.labels and train.loss = \"bce\""
                )));
            }
            if method.loss != Loss::Mse && self.cohort.labels.is_none() {
                return Err(Error::Usage(
                    "train.loss: expression is learned by \"mse\"; the others want cohort.labels".into(),
                ));
            }
            if self.methods().take(number).any(|before| before.name.eq_ignore_ascii_case(&method.name)) {
                let name = &method.name;
                return Err(Error::Usage(format!(
                    "compare: {name} stands twice; give one of them another name = \"...\""
                )));
            }
        }
        Ok(())
    }
}

fn selection(table: &mut toml::Table, preset: Preset) -> Result<SelectConfig> {
    let mut section: toml::Table = take(table, "select")?.unwrap_or_default();
    if let Some(over_cohort) = section.get("over_cohort") {
        return Err(Error::Usage(format!(
            "select.over_cohort = {over_cohort} is now select.scope: write scope = \"run\" (one threshold for all slides, \
             glass left out; the default) or scope = \"slide\" (each slide's own, sigma = 1)"
        )));
    }
    if preset == Preset::Small {
        // Patches that suit slides of a few thousand pixels.
        section.entry("patch_px").or_insert(toml::Value::Integer(128));
        section.entry("local_px").or_insert(toml::Value::Integer(32));
    }
    section.try_into().map_err(|e| Error::Usage(format!("select: {}", e.to_string().trim().replace('\n', " "))))
}

/// The keys of a configuration file as they stand there.
pub(super) fn read_table(path: &Path) -> Result<toml::Table> {
    let text = text::read(path, text::MAX_CONFIG_BYTES)?;
    sealed::check_toml(path, &text)?;
    text::parse_toml(path, &text)
}

/// The path with its folders as the file system knows them, without `.`, `..` and links; what does not exist, or is a
/// pattern, stays as it is written. The last part is kept where it is a file: its name may say what the file holds.
fn settled(base: &Path, path: &Path) -> PathBuf {
    let joined = base.join(path);
    let absolute = std::path::absolute(&joined).unwrap_or(joined);
    if let Some(dir) = absolute.is_dir().then(|| absolute.canonicalize().ok()).flatten() {
        return dir;
    }
    let Some(folder) = absolute.ancestors().skip(1).find_map(|ancestor| {
        let rest = absolute.strip_prefix(ancestor).ok()?;
        Some((ancestor.canonicalize().ok()?, rest))
    }) else {
        return absolute;
    };
    let (mut settled, rest) = folder;
    for part in rest.components() {
        match part {
            Component::ParentDir => drop(settled.pop()),
            part => settled.push(part),
        }
    }
    settled
}

fn take<T: serde::de::DeserializeOwned>(table: &mut toml::Table, key: &str) -> Result<Option<T>> {
    table
        .remove(key)
        .map(toml::Value::try_into)
        .transpose()
        .map_err(|e| Error::Usage(format!("{key}: {}", e.to_string().trim().replace('\n', " "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn however_a_path_is_written_it_is_the_same() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().canonicalize().expect("it exists");
        std::fs::create_dir_all(root.join("cohort/slides")).expect("writable");
        std::fs::write(root.join("cohort/table.tsv"), b"").expect("writable");
        std::os::unix::fs::symlink(root.join("cohort"), root.join("link")).expect("writable");
        std::os::unix::fs::symlink(root.join("cohort/table.tsv"), root.join("cohort/table.csv")).expect("writable");
        let base = root.join("cohort");
        for written in ["slides", "./slides", "../cohort/slides", "slides/../slides/", "../link/slides"] {
            assert_eq!(settled(&base, Path::new(written)), base.join("slides"), "{written}");
        }
        for written in ["slides/*.svs", "./slides/*.svs", "../link/slides/*.svs", "none/../slides/*.svs"] {
            assert_eq!(settled(&base, Path::new(written)), base.join("slides/*.svs"), "{written}");
        }
        assert_eq!(settled(&base, Path::new("./table.csv")), base.join("table.csv"), "a file keeps its name");
        assert_eq!(settled(&base, &root.join("link/slides")), base.join("slides"));
    }

    #[test]
    fn a_relative_configuration_resolves_once() {
        let text = "[cohort]\nslides = \"slides\"\nexpression = \"expression.tsv\"";
        let mut config = RunConfig::from_table(toml::from_str(text).expect("TOML")).expect("a configuration");
        config.resolve(Path::new("cohort"));
        let here = std::env::current_dir().and_then(|dir| dir.canonicalize()).expect("a folder");
        assert_eq!(config.cohort.slides, [here.join("cohort/slides").to_string_lossy()]);
        let once = config.clone();
        config.resolve(Path::new("elsewhere"));
        assert_eq!(config.cohort, once.cohort);
    }
}
