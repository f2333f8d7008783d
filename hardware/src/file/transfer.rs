//! Reading, writing and flushing.
//!
//! The common case, one operation that transfers everything, is a future written by hand and forced into line: as an
//! `async fn` it moved the buffer through every layer of its state, and the stalls of those moves made up most of its
//! cost (measured: some 0.12 us more than a bare ring per read, against some 0.05 us so). What is rare
//! (short transfers, a flush behind a write) is straight-line code behind a box.

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use io_uring::{opcode, squeue, types};

use super::Inner;
use crate::buffer::{Buffer, Frozen};
use crate::device::{Durability, IoError};
use crate::probe;
use crate::reactor::{Operation, entry_on};

/// How often an operation that the kernel wants repeated (`EAGAIN`, `EINTR`) is repeated.
const REPEATS_MAX: u32 = 1000;

type Rest<'a, T> = Option<Pin<Box<dyn Future<Output = Result<T, IoError>> + 'a>>>;

/// A read: not started while it has the buffer, then under way, then, if it came out short, taken further.
pub(super) struct Read<'a> {
    inner: &'a Inner,
    offset: u64,
    buffer: Option<Buffer>,
    operation: Option<Operation<'a, Buffer>>,
    rest: Rest<'a, Buffer>,
}

impl Future for Read<'_> {
    type Output = Result<Buffer, IoError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(buffer) = this.buffer.take() {
            this.inner.check("read", this.offset, buffer.len() as u64)?;
            this.operation = Some(this.inner.start_read(this.offset, buffer, 0));
        }
        if let Some(operation) = &mut this.operation {
            let (result, buffer) = ready!(Pin::new(operation).poll(context));
            this.operation = None;
            if result as usize == buffer.len() {
                return Poll::Ready(Ok(buffer));
            }
            this.rest = Some(Box::pin(this.inner.finish_read(this.offset, buffer, result)));
        }
        this.rest.as_mut().expect("a read is not polled after it ended").as_mut().poll(context)
    }
}

/// A write; see [`Read`].
pub(super) struct Write<'a> {
    inner: &'a Inner,
    offset: u64,
    flags: i32,
    then_flush: bool,
    data: Option<Frozen>,
    operation: Option<Operation<'a, Frozen>>,
    rest: Rest<'a, ()>,
}

impl Future for Write<'_> {
    type Output = Result<(), IoError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(data) = this.data.take() {
            this.inner.check_change("write", this.offset, data.len() as u64)?;
            this.operation = Some(this.inner.start_write(this.offset, data, 0, this.flags));
        }
        if let Some(operation) = &mut this.operation {
            let (result, data) = ready!(Pin::new(operation).poll(context));
            this.operation = None;
            if result as usize == data.len() && !this.then_flush {
                return Poll::Ready(Ok(()));
            }
            let rest = this.inner.finish_write(this.offset, data, result, this.flags, this.then_flush);
            this.rest = Some(Box::pin(rest));
        }
        this.rest.as_mut().expect("a write is not polled after it ended").as_mut().poll(context)
    }
}

impl Inner {
    #[inline]
    pub(super) fn read(&self, offset: u64, buffer: Buffer) -> Read<'_> {
        Read { inner: self, offset, buffer: Some(buffer), operation: None, rest: None }
    }

    #[inline]
    pub(super) fn write(&self, offset: u64, data: Frozen, durability: Durability) -> Write<'_> {
        let (flags, then_flush) = match durability {
            Durability::Cached => (0, false),
            // Nothing can be lost where there is no volatile cache.
            Durability::Fua if !self.geometry.volatile_cache => (0, false),
            Durability::Fua if self.geometry.fua => (libc::RWF_DSYNC, false),
            Durability::Fua => (0, true),
        };
        Write { inner: self, offset, flags, then_flush, data: Some(data), operation: None, rest: None }
    }

    /// Reads what is behind the first `filled` bytes.
    #[inline(always)]
    fn start_read(&self, offset: u64, mut buffer: Buffer, filled: usize) -> Operation<'_, Buffer> {
        let (start, len) = (buffer[filled..].as_mut_ptr(), (buffer.len() - filled) as u32);
        let offset = offset + filled as u64;
        let core = self.descriptor.core();
        let descriptor = &self.descriptor;
        let entry = if core.is_registered(start) {
            entry_on!(descriptor, |target| opcode::ReadFixed::new(target, start, len, 0).offset(offset))
        } else {
            entry_on!(descriptor, |target| opcode::Read::new(target, start, len).offset(offset))
        };
        // SAFETY: the entry names a part of the buffer that is held.
        unsafe { core.start(entry, buffer, descriptor, false) }
    }

    /// Writes what is behind the first `written` bytes.
    #[inline(always)]
    fn start_write(&self, offset: u64, data: Frozen, written: usize, flags: i32) -> Operation<'_, Frozen> {
        let (start, len) = (data[written..].as_ptr(), (data.len() - written) as u32);
        let offset = offset + written as u64;
        let core = self.descriptor.core();
        let descriptor = &self.descriptor;
        let entry = if core.is_registered(start) {
            entry_on!(descriptor, |target| opcode::WriteFixed::new(target, start, len, 0)
                .offset(offset)
                .rw_flags(flags))
        } else {
            entry_on!(descriptor, |target| opcode::Write::new(target, start, len).offset(offset).rw_flags(flags))
        };
        // SAFETY: the entry names a part of the bytes that are held.
        unsafe { core.start(entry, data, descriptor, false) }
    }

    #[cold]
    async fn finish_read(&self, offset: u64, mut buffer: Buffer, mut result: i32) -> Result<Buffer, IoError> {
        let (mut filled, mut repeats) = (0, 0);
        loop {
            self.advance("read", offset, buffer.len(), &mut filled, result, &mut repeats)?;
            if filled == buffer.len() {
                return Ok(buffer);
            }
            (result, buffer) = self.start_read(offset, buffer, filled).await;
        }
    }

    #[cold]
    async fn finish_write(
        &self,
        offset: u64,
        mut data: Frozen,
        mut result: i32,
        flags: i32,
        then_flush: bool,
    ) -> Result<(), IoError> {
        let (mut written, mut repeats) = (0, 0);
        loop {
            self.advance("write", offset, data.len(), &mut written, result, &mut repeats)?;
            if written == data.len() {
                return if then_flush { self.flush().await } else { Ok(()) };
            }
            (result, data) = self.start_write(offset, data, written, flags).await;
        }
    }

    /// Takes account of one result; an error when it makes no sense to go on.
    fn advance(
        &self,
        operation: &'static str,
        offset: u64,
        len: usize,
        done: &mut usize,
        result: i32,
        repeats: &mut u32,
    ) -> Result<(), IoError> {
        let at = offset + *done as u64;
        match result {
            0 if operation == "read" => Err(self.fell_short(operation, offset, at)),
            0 => Err(self.failed(operation, at, format!("the system wrote none of {len} bytes"))),
            1.. => {
                *done += result as usize;
                // Transfers are cut at blocks, except by the end of a file.
                if *done < len && !done.is_multiple_of(self.geometry.logical_block as usize) {
                    return Err(self.fell_short(operation, offset, offset + *done as u64));
                }
                Ok(())
            }
            _ if matches!(-result, libc::EINTR | libc::EAGAIN) && *repeats < REPEATS_MAX => {
                *repeats += 1;
                Ok(())
            }
            _ => Err(self.failure(operation, at, result)),
        }
    }

    /// It transferred up to `end` and no further: because it ends there now, or for a reason that is its own.
    #[cold]
    fn fell_short(&self, operation: &'static str, offset: u64, end: u64) -> IoError {
        match self.measure(self.used.get()) {
            Err(IoError::Shrunk { .. }) => self.cut_off(end),
            Err(error) => error,
            Ok(_) => self.failed(operation, offset, format!("the system stopped at {end}")),
        }
    }

    pub(super) fn measure(&self, used: u64) -> Result<u64, IoError> {
        let bytes =
            probe::size(&*self.descriptor, self.is_block_device).map_err(|error| match error.raw_os_error() {
                Some(errno) => self.failure("asking for its size", 0, -errno),
                None => self.failed("asking for its size", 0, error.to_string()),
            })?;
        self.judge(used, bytes)
    }

    /// What it means that it has so many bytes now.
    fn judge(&self, used: u64, bytes: u64) -> Result<u64, IoError> {
        if bytes == 0 && self.is_block_device {
            // So says one that was taken out.
            return Err(IoError::Gone { path: self.geometry.path.clone() });
        }
        self.used.set(used);
        if bytes < used || self.is_cut_off() {
            return Err(self.cut_off(bytes));
        }
        self.size.set(bytes - bytes % u64::from(self.geometry.logical_block));
        Ok(self.size.get())
    }

    pub(super) async fn flush(&self) -> Result<(), IoError> {
        if !self.geometry.volatile_cache || self.geometry.read_only {
            return Ok(());
        }
        // What was cut off is not durable, whatever the system says of the rest.
        self.measure(self.used.get())?;
        let descriptor = &self.descriptor;
        let entry = || entry_on!(descriptor, |target| opcode::Fsync::new(target).flags(types::FsyncFlags::DATASYNC));
        let no_space = |error| match error {
            // Of something written before: it is lost, which is more than a want of room.
            IoError::NoSpace { .. } => {
                self.failed("flush", 0, "there was no room for something written before".to_owned())
            }
            other => other,
        };
        self.run("flush", 0, entry).await.map_err(no_space)
    }

    /// Runs an operation without memory, again when it was interrupted.
    pub(super) async fn run(
        &self,
        operation: &'static str,
        offset: u64,
        entry: impl Fn() -> squeue::Entry,
    ) -> Result<(), IoError> {
        match self.run_once(entry).await {
            0.. => Ok(()),
            result => Err(self.failure(operation, offset, result)),
        }
    }

    pub(super) async fn run_once(&self, entry: impl Fn() -> squeue::Entry) -> i32 {
        let mut repeats = 0;
        loop {
            // SAFETY: callers build entries that name no memory.
            let started = unsafe { self.descriptor.core().start(entry(), (), &self.descriptor, false) };
            let (result, ()) = started.await;
            if !matches!(-result, libc::EINTR | libc::EAGAIN) || repeats == REPEATS_MAX {
                return result;
            }
            repeats += 1;
        }
    }
}
