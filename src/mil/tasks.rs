//! What copies of a trained network are tuned for: a project and a group of genes, as the paper does (§4) and HE2RNA before it.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    io::file_name,
};

/// After a network was trained on all projects and genes, a copy is tuned for each task.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FineTuneConfig {
    pub enabled: bool,
    pub epochs: usize,
    pub learning_rate: f64,
    pub patience: usize,
    /// Whose slides a copy is tuned on.
    pub scope: Scope,
    pub tasks: TaskSet,
}

impl FineTuneConfig {
    /// Of what is not tuned.
    pub(super) fn none() -> FineTuneConfig {
        let (scope, tasks) = (Scope::Task, TaskSet::Named(NamedTasks::Projects));
        FineTuneConfig { enabled: false, epochs: 0, learning_rate: 0.0, patience: 0, scope, tasks }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Those of the task's project.
    #[default]
    Task,
    /// Those of HE2RNA's six projects: LIHC, COAD, PRAD, LUAD, LUSC and BRCA, as far as the cohort has them.
    AllSix,
}

/// The tasks of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "\"projects\", \"genes\", \"isg-paper\", or a list of tasks with the keys project and genes"
)]
pub enum TaskSet {
    Named(NamedTasks),
    Given(Vec<TaskConfig>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamedTasks {
    /// Every project, all genes together.
    Projects,
    /// Every gene of every project by itself.
    Genes,
    /// The six groups of the paper's table 1.
    IsgPaper,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// Absent: slides of all projects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    pub genes: Vec<String>,
}

const SIX_PROJECTS: [&str; 6] = ["LIHC", "COAD", "PRAD", "LUAD", "LUSC", "BRCA"];

const T_CELLS: &[&str] = &["CD3D", "CD247", "CD3E", "CD3G"];
const B_CELLS: &[&str] = &["MS4A1", "CD19"];
const PAPER_TASKS: [(&str, &[&str]); 6] = [
    ("LIHC", T_CELLS),
    ("LIHC", B_CELLS),
    ("LIHC", &["MKI67"]),
    ("COAD", T_CELLS),
    ("COAD", B_CELLS),
    ("PRAD", &["TP63", "KRT8", "KRT18"]),
];

/// A project and the genes that a copy of the network is tuned for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Task {
    /// Also its folder's name.
    pub name: String,
    /// Whose slides it is for; `None`: of all projects.
    pub project: Option<String>,
    /// Indices into the genes.
    pub genes: Vec<usize>,
    /// Projects whose slides it is tuned on; empty: those it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tuned_on: Vec<String>,
}

impl Task {
    /// Whether a slide of this project is predicted by it.
    pub fn is_for(&self, project: &str) -> bool {
        self.project.as_deref().is_none_or(|p| p == project)
    }

    /// Whether a slide of this project is tuned on.
    pub fn tunes_on(&self, project: &str) -> bool {
        if self.tuned_on.is_empty() { self.is_for(project) } else { self.tuned_on.iter().any(|p| p == project) }
    }

    pub(crate) fn covers(&self, project: &str, gene: usize) -> bool {
        self.is_for(project) && self.genes.contains(&gene)
    }
}

/// The tasks to tune for.
///
/// # Errors
/// `Usage` on a task that names a project without slides (`projects` has one a slide), or a gene that is not among `genes`.
pub fn tasks(config: &FineTuneConfig, genes: &[String], projects: &[&str]) -> Result<Vec<Task>> {
    if !config.enabled {
        return Ok(Vec::new());
    }
    let mut projects = projects.to_vec();
    projects.sort_unstable();
    projects.dedup();
    let tuned_on: Vec<String> = match config.scope {
        Scope::Task => Vec::new(),
        Scope::AllSix => SIX_PROJECTS.iter().filter_map(|p| of_tcga(p, &projects)).map(str::to_string).collect(),
    };
    if config.scope == Scope::AllSix && tuned_on.is_empty() {
        return Err(wrong(format!("scope = \"all-six\" wants one of {} in the cohort", SIX_PROJECTS.join(", "))));
    }
    let wanted: Vec<(Option<&str>, Vec<usize>)> = match &config.tasks {
        TaskSet::Named(NamedTasks::Projects) => {
            projects.iter().map(|project| (Some(*project), (0..genes.len()).collect())).collect()
        }
        TaskSet::Named(NamedTasks::Genes) => {
            projects.iter().flat_map(|project| (0..genes.len()).map(move |gene| (Some(*project), vec![gene]))).collect()
        }
        TaskSet::Named(NamedTasks::IsgPaper) => paper(genes, &projects)?,
        TaskSet::Given(given) => given.iter().map(|task| task.resolved(genes, &projects)).collect::<Result<_>>()?,
    };
    // The number tells apart what file systems or the cut of a long name would not.
    let one = |(number, (project, members)): (usize, (Option<&str>, Vec<usize>))| {
        let first = members.first().map_or("none", |&gene| genes[gene].as_str());
        let name = file_name::escaped(&format!("{number}-{}-{first}", project.unwrap_or("all")));
        Task { name, project: project.map(str::to_string), genes: members, tuned_on: tuned_on.clone() }
    };
    Ok(wanted.into_iter().enumerate().map(one).collect())
}

impl TaskConfig {
    fn resolved<'a>(&'a self, genes: &[String], projects: &[&str]) -> Result<(Option<&'a str>, Vec<usize>)> {
        if let Some(project) = self.project.as_deref().filter(|p| !projects.contains(p)) {
            return Err(wrong(format!("project {project} is not in the cohort; it has {}", projects.join(", "))));
        }
        let genes = self.genes.iter().map(|name| position(name, genes)).collect::<Result<Vec<_>>>()?;
        Ok((self.project.as_deref(), genes))
    }
}

/// The paper's groups of the projects that the cohort has.
fn paper<'a>(genes: &[String], projects: &[&'a str]) -> Result<Vec<(Option<&'a str>, Vec<usize>)>> {
    let mut found = Vec::new();
    for (project, group) in PAPER_TASKS {
        if let Some(project) = of_tcga(project, projects) {
            let group = group.iter().map(|name| position(name, genes)).collect::<Result<Vec<_>>>()?;
            found.push((Some(project), group));
        }
    }
    match found.is_empty() {
        true => Err(wrong("\"isg-paper\" wants LIHC, COAD or PRAD in the cohort".to_string())),
        false => Ok(found),
    }
}

/// The cohort's name of a TCGA project: `LIHC` or `TCGA-LIHC`.
fn of_tcga<'a>(code: &str, projects: &[&'a str]) -> Option<&'a str> {
    projects.iter().find(|p| p.strip_prefix("TCGA-").unwrap_or(p) == code).copied()
}

fn position(name: &str, genes: &[String]) -> Result<usize> {
    let found = genes.iter().position(|gene| gene == name);
    found.ok_or_else(|| wrong(format!("gene {name} is not predicted; add it to the genes")))
}

fn wrong(what: String) -> Error {
    Error::Usage(format!("train.fine_tune.tasks: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> FineTuneConfig {
        let rest = "enabled = true\nepochs = 1\nlearning_rate = 0.1\npatience = 1\n";
        toml::from_str(&format!("{rest}{text}")).expect("a configuration")
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| n.to_string()).collect()
    }

    #[test]
    fn the_papers_tasks_are_groups_of_genes() {
        let genes = names(&["KRT8", "CD3D", "CD247", "CD3E", "CD3G", "MS4A1", "CD19", "MKI67", "TP63", "KRT18"]);
        let paper = config("scope = \"all-six\"\ntasks = \"isg-paper\"");
        let found = tasks(&paper, &genes, &["TCGA-LIHC", "TCGA-BRCA", "TCGA-PRAD"]).expect("tasks");
        let sizes: Vec<(&str, usize)> =
            found.iter().map(|t| (t.project.as_deref().unwrap_or(""), t.genes.len())).collect();
        assert_eq!(sizes, [("TCGA-LIHC", 4), ("TCGA-LIHC", 2), ("TCGA-LIHC", 1), ("TCGA-PRAD", 3)]);
        assert_eq!(found[3].genes, [8, 0, 9]);
        assert!(found[0].tunes_on("TCGA-BRCA") && !found[0].is_for("TCGA-BRCA") && found[0].covers("TCGA-LIHC", 1));
        assert!(tasks(&paper, &genes[1..], &["PRAD"]).expect_err("no KRT8").to_string().contains("KRT8"));
        assert!(tasks(&paper, &genes, &["SIM"]).is_err());
    }

    #[test]
    fn a_project_is_tuned_for_all_its_genes_together() {
        let genes = names(&["A", "B"]);
        let found = tasks(&config("scope = \"task\"\ntasks = \"projects\""), &genes, &["Y", "X", "X"]).expect("tasks");
        assert_eq!(found.iter().map(|t| t.genes.len()).collect::<Vec<_>>(), [2, 2]);
        assert!(found[0].tunes_on("X") && !found[0].tunes_on("Y"));
        let alone = config("scope = \"task\"\ntasks = \"genes\"");
        assert_eq!(tasks(&alone, &genes, &["Y", "X"]).expect("tasks").len(), 4);
    }

    /// No two tasks share a folder, whatever their genes are called.
    #[test]
    fn every_task_has_a_folder_of_its_own() {
        let genes = names(&["A/B", "A_B", "a_b", "A-B"]);
        let found = tasks(&config("scope = \"task\"\ntasks = \"genes\""), &genes, &["P"]).expect("tasks");
        let mut folders: Vec<String> = found.iter().map(|t| t.name.to_lowercase()).collect();
        folders.dedup();
        assert!(folders.len() == 4 && folders.iter().all(|f| !f.contains('/')), "{folders:?}");
    }
}
