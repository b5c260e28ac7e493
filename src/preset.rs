//! Which sizes a configuration begins with.

use serde::{Deserialize, Serialize};

/// Named in a configuration as `preset = "small"`; every key can be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The paper's sizes, for a GPU and hundreds of slides or more.
    #[default]
    Paper,
    /// The same methods narrowed for a CPU and tens of slides.
    Small,
}

impl Preset {
    pub const ALL: [Preset; 2] = [Preset::Paper, Preset::Small];

    pub fn name(self) -> &'static str {
        match self {
            Preset::Paper => "paper",
            Preset::Small => "small",
        }
    }
}
