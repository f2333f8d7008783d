//! Objects that are objects: serde also takes an array for them, whose elements are the fields in their order, which nobody means.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A value that is written as an object and in no other way.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }
        from.deserialize_map(Fields(PhantomData)).map(Object)
    }
}

/// For a field that is an object.
pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Object::deserialize(from).map(|Object(value)| value)
}

/// For a field that is a list of objects, or null.
pub(super) fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Vec<T>>, D::Error> {
    let list = Option::<Vec<Object<T>>>::deserialize(from)?;
    Ok(list.map(|list| list.into_iter().map(|Object(value)| value).collect()))
}

/// For a field that is an object or null, which are told from what is absent.
pub(super) fn object_or_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    let found = Option::<Object<T>>::deserialize(from)?;
    Ok(Some(found.map(|Object(value)| value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BeginReclaim, CreateVdisk, SetPool, SetVdisk};

    fn read<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, String> {
        serde_json::from_str::<Object<T>>(text).map(|Object(value)| value).map_err(|error| error.to_string())
    }

    #[test]
    fn an_array_is_no_object_at_the_top_or_inside() {
        let refused = |result: Result<(), String>| {
            let said = result.expect_err("an array was taken");
            assert!(said.contains("expected an object"), "{said}");
        };
        refused(read::<BeginReclaim>("[null, false, null, false]").map(drop));
        refused(read::<BeginReclaim>(r#"{"ranges": [[0, 4096]]}"#).map(drop));
        refused(read::<CreateVdisk>(r#"{"name": "a", "designated_bytes": 4096, "policy": [null]}"#).map(drop));
        refused(read::<SetVdisk>(r#"{"policy": ["acme", null, null, null, null, null, null]}"#).map(drop));
        refused(read::<SetPool>(r#"{"growth": [85, null, null, null, null, null]}"#).map(drop));
    }

    #[test]
    fn an_object_is_read_as_it_was_and_with_its_unknown_fields_refused() {
        let begin: BeginReclaim = read(r#"{"ranges": [{"offset_bytes": 0, "length_bytes": 4096}]}"#).unwrap();
        assert_eq!(begin.ranges.unwrap()[0].length_bytes, 4096);
        assert!(read::<BeginReclaim>(r#"{"ranges": null}"#).unwrap().ranges.is_none());
        let none: SetPool = read(r#"{"growth": null}"#).unwrap();
        let absent: SetPool = read("{}").unwrap();
        assert_eq!((none.growth, absent.growth), (Some(None), None));
        let grows: SetPool = read(r#"{"growth": {"at_pct": 85, "grow_file_to_bytes": null}}"#).unwrap();
        let growth = grows.growth.unwrap().unwrap();
        assert_eq!((growth.at_pct, growth.grow_file_to_bytes, growth.step_bytes), (Some(85), Some(None), None));
        assert!(read::<SetPool>(r#"{"growth": {"at": 85}}"#).unwrap_err().contains("unknown field `at`"));
    }
}
