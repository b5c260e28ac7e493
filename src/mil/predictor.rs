//! Prediction of new slides with a finished cross-validation: the average over its folds' networks, as HE2RNA averages
//! its five.

use std::path::Path;

use crate::{
    device::Device,
    error::{Error, Result},
    mil::{
        bags::Origin,
        features::PatchFeatures,
        manifest::{Manifest, member_dir, model_name, task_dir},
        method::{MethodConfig, Rows},
        model::Model,
        network::{Explanation, PatchMap},
        tasks::Task,
        training::MODEL_FILE,
    },
};

/// Every network of a run.
pub struct Predictor {
    pub manifest: Manifest,
    /// What the features that its networks read must come from.
    pub origin: Origin,
    members: Vec<Member>,
}

/// One network and its tuned copies.
struct Member {
    fold: usize,
    pooled: Model,
    tuned: Vec<(Task, Model)>,
}

/// A folder of networks that must agree with its manifest and with each other.
struct Held<'a> {
    dir: &'a Path,
    manifest: &'a Manifest,
    /// As soon as the first network, or the manifest, has said it.
    origin: Option<Origin>,
    device: &'a Device,
}

impl Held<'_> {
    fn model(&mut self, path: &Path, task: Option<&Task>) -> Result<Model> {
        let model = Model::load(path, self.device)?;
        let (manifest, header) = (self.manifest, &model.header);
        let differs = |what: String| {
            let remedy = "give the folder that one run left, or run the command that trained the networks again";
            Err(Error::input(path, what, remedy))
        };
        if header.genes != manifest.genes {
            let pair = header.genes.iter().zip(&manifest.genes).find(|(ours, theirs)| ours != theirs);
            let (ours, theirs) = (header.genes.len(), manifest.genes.len());
            return differs(match pair {
                Some((ours, theirs)) => format!("predicts {ours} where model.json has {theirs}"),
                None => format!("predicts {ours} genes, and model.json has {theirs}"),
            });
        }
        let pooled = &manifest.config.method;
        let method = match task {
            Some(_) => pooled.tuned().unwrap_or_else(|| pooled.clone()),
            None => pooled.clone(),
        };
        if header.dims != method.row_dims(manifest.dims) {
            let (ours, theirs) = (header.dims, manifest.dims);
            return differs(format!("is for features of sizes {ours:?}, and model.json says {theirs:?}"));
        }
        if header.method != method {
            return differs("is of another method or shape than model.json says".into());
        }
        let all: Vec<usize> = (0..manifest.genes.len()).collect();
        if header.task.as_ref() != task || header.trained_genes != *task.map_or(&all, |task| &task.genes) {
            let name =
                |task: Option<&Task>| task.map_or("all genes and projects".into(), |t| format!("the task {}", t.name));
            let (ours, theirs) = (name(header.task.as_ref()), name(task));
            return differs(if ours == theirs {
                format!("was trained for other genes or another project than model.json gives {theirs}")
            } else {
                format!("was trained for {ours}, and lies where the network for {theirs} belongs")
            });
        }
        if *self.origin.get_or_insert(header.origin) != header.origin {
            return differs("was trained on other features than the networks beside it".into());
        }
        let stored = manifest.models.as_ref().map(|models| models.get(&model_name(self.dir, path)).copied());
        if stored.is_some_and(|stored| stored != model.checksum) {
            return differs("is not the network that model.json was written with".into());
        }
        Ok(model)
    }
}

impl Predictor {
    /// Reads the folder that [`cross_validate`](crate::mil::crossval::cross_validate) filled.
    ///
    /// # Errors
    /// `Input` where the manifest and the networks do not say the same, or a network is missing, damaged or of another run.
    pub fn load(dir: &Path, device: &Device) -> Result<Predictor> {
        let manifest = Manifest::read(dir)?;
        let mut held = Held { dir, manifest: &manifest, origin: manifest.origin, device };
        let mut members = Vec::new();
        for fold in 0..manifest.folds {
            for member in 0..manifest.members {
                let folder = member_dir(dir, fold, member);
                let pooled = held.model(&folder.join(MODEL_FILE), None)?;
                let mut tuned = Vec::new();
                for task in &manifest.tasks {
                    let path = task_dir(&folder, task).join(MODEL_FILE);
                    // The manifest was held against the folders: where there is none, the fold had no slide to tune on.
                    if task_dir(&folder, task).is_dir() {
                        tuned.push((task.clone(), held.model(&path, Some(task))?));
                    }
                }
                members.push(Member { fold, pooled, tuned });
            }
        }
        let origin = held.origin.unwrap_or_default();
        Ok(Predictor { manifest, origin, members })
    }

    /// The only project that the run was tuned for, or none.
    fn only_project(&self) -> Option<&str> {
        let mut projects = self.manifest.tasks.iter().filter_map(|t| t.project.as_deref());
        let first = projects.next()?;
        projects.all(|p| p == first).then_some(first)
    }

    /// One slide's values, one per gene, on the targets' own scale. `project` chooses among tuned networks; without it those
    /// of the only project there is, or else the networks of all projects.
    pub fn predict(&self, features: &dyn PatchFeatures, project: Option<&str>) -> Result<Vec<f64>> {
        let slide = SlideRows::of(features, &self.manifest.config.method, &self.manifest.tasks)?;
        let members: Vec<&Member> = self.members.iter().collect();
        Ok(self.average(&members, project, |model| Ok(vec![model.predict(slide.read_by(model))?]))?.swap_remove(0))
    }

    /// One slide's prediction with what led to it, averaged over the networks: contributions per patch and gene from the
    /// tuned networks where there are any, maps from the networks of all projects.
    pub fn explain(&self, features: &dyn PatchFeatures, project: Option<&str>) -> Result<Explanation> {
        self.explain_by(&self.members.iter().collect::<Vec<_>>(), features, project)
    }

    /// The same of a slide of the run itself, by the networks of these folds (counted over all repeats) alone: those that
    /// held its patient out. `None` where no network is of these folds.
    pub fn explain_held_out(
        &self,
        features: &dyn PatchFeatures,
        project: Option<&str>,
        folds: &[usize],
    ) -> Result<Option<Explanation>> {
        let members: Vec<&Member> = self.members.iter().filter(|member| folds.contains(&member.fold)).collect();
        match members.is_empty() {
            true => Ok(None),
            false => self.explain_by(&members, features, project).map(Some),
        }
    }

    fn explain_by(
        &self,
        members: &[&Member],
        features: &dyn PatchFeatures,
        project: Option<&str>,
    ) -> Result<Explanation> {
        let slide = SlideRows::of(features, &self.manifest.config.method, &self.manifest.tasks)?;
        let genes = self.manifest.genes.len().max(1);
        let mut maps: Vec<PatchMap> = Vec::new();
        let mut additive = slide.pooled.is_none();
        for member in members {
            let one = member.pooled.explain(slide.read_by(&member.pooled))?;
            additive &= one.contribution.is_some();
            maps.resize(one.maps.len(), PatchMap::default());
            for (sum, one) in maps.iter_mut().zip(one.maps) {
                sum.values.resize(one.values.len(), 0.0);
                sum.values.iter_mut().zip(&one.values).for_each(|(s, v)| *s += v / members.len() as f64);
                sum.name = one.name;
            }
        }
        let said = self.average(members, project, |model| {
            let e = model.explain(slide.read_by(model))?;
            let contribution = e.contribution.filter(|_| additive).unwrap_or_default();
            Ok(std::iter::once(e.prediction).chain(contribution.chunks(genes).map(<[f64]>::to_vec)).collect())
        })?;
        let mut said = said.into_iter();
        let prediction = said.next().unwrap_or_default();
        let contribution = additive.then(|| said.flatten().collect());
        Ok(match &slide.pooled {
            None => Explanation { prediction, contribution, maps },
            Some(rows) => of_patches(rows, prediction, maps),
        })
    }

    /// Averages what the networks say, rows of one value per gene; each gene's column is a tuned network's where one
    /// covers it.
    fn average(
        &self,
        members: &[&Member],
        project: Option<&str>,
        say: impl Fn(&Model) -> Result<Vec<Vec<f64>>>,
    ) -> Result<Vec<Vec<f64>>> {
        let project = project.or(self.only_project()).unwrap_or("");
        let mut sum: Vec<Vec<f64>> = Vec::new();
        for member in members {
            let mut rows = say(&member.pooled)?;
            for (task, model) in &member.tuned {
                let covered: Vec<usize> = task.genes.iter().copied().filter(|&g| task.covers(project, g)).collect();
                if covered.is_empty() {
                    continue;
                }
                for (row, again) in rows.iter_mut().zip(say(model)?) {
                    covered.iter().for_each(|&g| row[g] = again[g]);
                }
            }
            if sum.is_empty() {
                sum = rows.iter().map(|row| vec![0.0; row.len()]).collect();
            }
            for (sum, row) in sum.iter_mut().zip(&rows) {
                sum.iter_mut().zip(row).for_each(|(s, v)| *s += v / members.len() as f64);
            }
        }
        Ok(sum)
    }
}

/// A slide in the rows that networks read.
struct SlideRows<'a> {
    patches: &'a dyn PatchFeatures,
    /// Those of the networks of all projects; `None` where patches are their rows.
    pooled: Option<Rows>,
    /// Those of tuned networks, where they read others.
    tuned: Option<Option<Rows>>,
}

impl<'a> SlideRows<'a> {
    fn of(patches: &'a dyn PatchFeatures, method: &MethodConfig, tasks: &[Task]) -> Result<SlideRows<'a>> {
        let tuned = method.tuned().filter(|_| !tasks.is_empty());
        let tuned = tuned.map(|method| method.rows(patches)).transpose()?;
        Ok(SlideRows { patches, pooled: method.rows(patches)?, tuned })
    }

    fn read_by(&self, model: &Model) -> &dyn PatchFeatures {
        let rows = match &self.tuned {
            Some(rows) if model.header.task.is_some() => rows,
            _ => &self.pooled,
        };
        rows.as_ref().map_or(self.patches, |rows| &rows.features)
    }
}

/// What was said of rows, said of the patches in them. Patches of one row share a weight, so that weights still sum to one;
/// they do not add up to the prediction by themselves.
fn of_patches(rows: &Rows, prediction: Vec<f64>, maps: Vec<PatchMap>) -> Explanation {
    let count = rows.features.patches().max(1);
    let mut patches_in = vec![0usize; count];
    rows.of_patch.iter().for_each(|&row| patches_in[row] += 1);
    let spread = |map: PatchMap| {
        let each = map.values.len() / count;
        let shared = map.name == PatchMap::ATTENTION;
        let value =
            |row: usize, i: usize| map.values[row * each + i] / if shared { patches_in[row] as f64 } else { 1.0 };
        let values = rows.of_patch.iter().flat_map(|&row| (0..each).map(move |i| (row, i)));
        PatchMap { values: values.map(|(row, i)| value(row, i)).collect(), name: map.name.clone() }
    };
    Explanation { prediction, contribution: None, maps: maps.into_iter().map(spread).collect() }
}
