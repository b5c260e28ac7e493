//! Why a tile's bytes do not become pixels: they are damaged, or sound and of a kind that is not decoded here.

/// A clause about the data ("ends inside ..."), sorted by what the user can do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Copy or export the file again.
    Damaged(String),
    /// Convert the file.
    Unsupported(String),
}

impl Failure {
    /// The same failure with its clause changed.
    pub fn map(self, change: impl FnOnce(String) -> String) -> Failure {
        match self {
            Failure::Damaged(clause) => Failure::Damaged(change(clause)),
            Failure::Unsupported(clause) => Failure::Unsupported(change(clause)),
        }
    }

    pub fn clause(&self) -> &str {
        match self {
            Failure::Damaged(clause) | Failure::Unsupported(clause) => clause,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Failure::Damaged(_) => "the file is damaged, copy it again or export the slide again",
            Failure::Unsupported(_) => {
                "this is not supported; convert it: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
            }
        }
    }
}

impl From<String> for Failure {
    fn from(clause: String) -> Failure {
        Failure::Damaged(clause)
    }
}

impl From<&str> for Failure {
    fn from(clause: &str) -> Failure {
        Failure::Damaged(clause.to_string())
    }
}
