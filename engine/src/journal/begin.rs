//! The beginning of a life.

use std::rc::Rc;

use plimsoll_hardware::Machine;

use super::{Journal, JournalFailed, Tail};
use crate::format::Record;

impl<M: Machine> Journal<M> {
    /// Writes the first batches of a life, with `records` (what a start decided, and what only crash memory had), proven and
    /// durable; then the tail belongs to this life. There is always a batch, so that a tail of the life before is never
    /// taken for the present one's.
    pub(crate) async fn begin_life(
        self: &Rc<Self>,
        records: &[Record],
        tail: Option<Tail<M::CrashMemory>>,
    ) -> Result<(), JournalFailed> {
        let mut rest = records;
        loop {
            let mut bytes = 0;
            let fitting = rest.iter().take_while(|record| {
                bytes += record.encoded_len();
                bytes <= self.change_bytes_max()
            });
            let (now, later) = rest.split_at(fitting.count());
            let bytes = now.iter().map(Record::encoded_len).sum();
            let mut permit = self.reserve_for_checkpoint(bytes).await?;
            self.append(&mut permit, now);
            drop(permit);
            self.cut_anyway().await?;
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        if let Some(tail) = tail {
            tail.begin(self.pool, self.life, self.pending_sequence());
            // Set once: a journal begins one life.
            let _ = self.tail.set(tail);
        }
        Ok(())
    }
}
