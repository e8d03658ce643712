//! Check.
/// What a check found.
#[derive(Debug)]
pub struct CheckReport {
    /// Damage, each naming its object.
    pub errors: Vec<crate::Error>,
}
