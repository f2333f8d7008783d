//! What `sendmsg` needs in memory: several runs of bytes and the structures that point to them.
//!
//! Invariant: `header` points into `vectors`, and `vectors` into `parts`, only between [`Message::prepare`] and the next
//! change; the box keeps `header` where it is.

use crate::buffer::Frozen;

/// Runs of bytes that are sent as one. Kept by the reactor for the next sender, so that sending allocates nothing.
pub(crate) struct Message {
    header: libc::msghdr,
    vectors: Vec<libc::iovec>,
    parts: Vec<Frozen>,
}

impl Message {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: all zeros is a valid `msghdr`: null pointers with zero lengths.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Self { header, vectors: Vec::new(), parts: Vec::new() })
    }

    /// Takes the runs; returns the sum of their lengths.
    pub(super) fn fill(&mut self, parts: impl IntoIterator<Item = Frozen>) -> usize {
        self.clear();
        self.parts.extend(parts);
        let vector = |part: &Frozen| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
        self.vectors.extend(self.parts.iter().map(vector));
        self.vectors.iter().map(|vector| vector.iov_len).sum()
    }

    /// Lets go of the runs.
    pub(super) fn clear(&mut self) {
        self.vectors.clear();
        self.parts.clear();
    }

    /// Forgets the first `sent` bytes, which need not be sent again.
    pub(super) fn advance(&mut self, mut sent: usize) {
        for vector in &mut self.vectors {
            let taken = sent.min(vector.iov_len);
            vector.iov_base = vector.iov_base.cast::<u8>().wrapping_add(taken).cast();
            vector.iov_len -= taken;
            sent -= taken;
        }
        // The kernel takes at most 1024 vectors (UIO_MAXIOV); spent ones must not hide the rest.
        self.vectors.retain(|vector| vector.iov_len > 0);
    }

    /// Ties the structures together and returns what `sendmsg` takes. Valid until the next change.
    pub(super) fn prepare(&mut self) -> *const libc::msghdr {
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len().min(libc::UIO_MAXIOV as usize) as _;
        &raw const self.header
    }
}
