//! Reading and writing little-endian fields, with `bytes` underneath and without a panic on short input.

use bytes::{Buf, BufMut};

use super::{FormatError, NAME_BYTES_MAX, is_name};

/// Reads fields off the front of a slice.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

macro_rules! field {
    ($name:ident, $type:ty, $get:ident) => {
        pub(crate) fn $name(&mut self) -> Result<$type, FormatError> {
            if self.bytes.remaining() < size_of::<$type>() {
                return Err(FormatError::Short(self.what));
            }
            Ok(self.bytes.$get())
        }
    };
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    field!(u8, u8, get_u8);
    field!(u16, u16, get_u16_le);
    field!(u32, u32, get_u32_le);
    field!(u64, u64, get_u64_le);

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        if self.bytes.len() < len {
            return Err(FormatError::Short(self.what));
        }
        let (front, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        Ok(front)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        self.take(N)?.try_into().map_err(|_| FormatError::Short(self.what))
    }

    /// A length byte and that many bytes of a name, out of a field of 64 bytes.
    pub(crate) fn name(&mut self, field: &'static str) -> Result<String, FormatError> {
        let len = usize::from(self.u8()?);
        let bytes = self.take(NAME_BYTES_MAX)?;
        let text = bytes.get(..len).and_then(|text| std::str::from_utf8(text).ok()).filter(|text| is_name(text));
        text.map(str::to_owned).ok_or(FormatError::Field { field, value: len as u64 })
    }

    /// As [`Cursor::name`], where an empty name is none.
    pub(crate) fn optional_name(&mut self, field: &'static str) -> Result<Option<String>, FormatError> {
        if self.bytes.first() == Some(&0) {
            self.take(1 + NAME_BYTES_MAX)?;
            return Ok(None);
        }
        self.name(field).map(Some)
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes fields to the back of a vector or a slice.
pub(crate) trait Put: BufMut {
    /// A length byte and `text`, padded with zeros to `room` bytes.
    fn put_text(&mut self, text: &str, room: usize) {
        assert!(text.len() <= room && room <= 255, "{} bytes of text do not fit {room}", text.len());
        self.put_u8(text.len() as u8);
        self.put_slice(text.as_bytes());
        self.put_bytes(0, room - text.len());
    }
}

impl<B: BufMut + ?Sized> Put for B {}
