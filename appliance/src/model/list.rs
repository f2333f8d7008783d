//! The envelope of every list: `{"schema":"vdisk.list/v1","items":[...]}`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An object that can be listed.
pub trait Listed {
    /// `NOUN.list/v1`; it changes only when fields change their meaning.
    const SCHEMA: &'static str;
}

/// All objects of one kind.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// `NOUN.list/v1`.
    pub schema: String,
    /// In order of their names.
    pub items: Vec<T>,
}

impl<T: Listed> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        Self { schema: T::SCHEMA.to_owned(), items }
    }
}
