//! What can go wrong, each with what to do about it.

/// An artefact could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The artefact is not there.
    #[error("the {0} is not built")]
    NotBuilt(String),
}
