//! A leaf of a mapping tree: 512 words, one page.

use bytes::BufMut;

use super::{Cursor, FormatError, LEAF_WORDS, PageType, Payload, Word};

/// The words of 512 neighbouring virtual extents.
#[derive(Clone)]
pub(crate) struct Leaf {
    words: [u64; LEAF_WORDS],
}

impl Leaf {
    pub(crate) fn get(&self, slot: usize) -> Word {
        Word(self.words[slot])
    }

    pub(crate) fn set(&mut self, slot: usize, word: Word) {
        self.words[slot] = word.0;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Word> + '_ {
        self.words.iter().map(|&word| Word(word))
    }
}

impl Payload for Leaf {
    const TYPE: PageType = PageType::Leaf;

    fn empty() -> Self {
        Leaf { words: [0; LEAF_WORDS] }
    }

    fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    fn summary(&self) -> u32 {
        self.words.iter().filter(|&&word| word != 0).count() as u32
    }

    fn encode(&self, mut page: &mut [u8]) {
        for &word in &self.words {
            page.put_u64_le(word);
        }
    }

    fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(page, "a leaf");
        let mut leaf = Leaf::empty();
        for word in &mut leaf.words {
            *word = cursor.u64()?;
            Word(*word).verify()?;
        }
        Ok(leaf)
    }
}
