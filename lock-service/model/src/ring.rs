//! The last events: a queue that is cheap to copy and remembers what it forgot. It does not know how
//! many events to keep; whoever pushes also pops.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::{Event, Position};

/// Events share memory between copies in chunks of this many.
const CHUNK: usize = 64;

/// Events in the order of their positions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ring {
    /// None is empty, all but the last have been full.
    chunks: VecDeque<Arc<Vec<Event>>>,
    /// How many at the front of the first chunk are not in the ring any more.
    gone: usize,
    len: usize,
    /// The position of the last event that was popped.
    forgotten: Position,
}

impl Ring {
    /// An empty ring, out of which everything up to `forgotten` has gone.
    pub(crate) fn after(forgotten: Position) -> Self {
        Self {
            forgotten,
            ..Self::default()
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn forgotten(&self) -> Position {
        self.forgotten
    }

    pub(crate) fn push(&mut self, event: Event) {
        match self.chunks.back_mut() {
            Some(last) if last.len() < CHUNK => Arc::make_mut(last).push(event),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(event);
                self.chunks.push_back(Arc::new(chunk));
            }
        }
        self.len += 1;
    }

    pub(crate) fn pop(&mut self) {
        let Some(first) = self.chunks.front() else {
            return;
        };
        if let Some(event) = first.get(self.gone) {
            self.forgotten = event.position;
        }
        self.gone += 1;
        self.len -= 1;
        if self.gone >= first.len() {
            self.chunks.pop_front();
            self.gone = 0;
        }
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Event> {
        // Not `skip`, which needs to know the length to be taken from both ends.
        let first = self
            .chunks
            .front()
            .map_or(&[][..], |chunk| chunk.as_slice());
        let rest = self.chunks.iter().skip(1).flat_map(|chunk| chunk.iter());
        first
            .get(self.gone..)
            .unwrap_or_default()
            .iter()
            .chain(rest)
    }

    /// The events behind `position`.
    pub(crate) fn iter_after(&self, position: Position) -> impl Iterator<Item = &Event> {
        let is_before = |event: &Event| event.position <= position;
        let from = self
            .chunks
            .partition_point(|chunk| chunk.last().is_some_and(is_before));
        self.chunks
            .range(from..)
            .enumerate()
            .flat_map(move |(at, chunk)| {
                let gone = if from == 0 && at == 0 { self.gone } else { 0 };
                chunk.get(gone..).unwrap_or_default()
            })
            .skip_while(move |event| event.position <= position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EventKind, LeaseId, LockName, Token};

    fn event(index: u64) -> Event {
        let kind = EventKind::Expired {
            lock: LockName::new("a").unwrap(),
            lease: LeaseId([1; 16]),
            token: Token(1),
        };
        Event {
            position: at(index),
            kind,
        }
    }

    fn at(index: u64) -> Position {
        Position { index, ordinal: 0 }
    }

    #[test]
    fn a_ring_keeps_order_through_chunks_and_copies_and_knows_what_it_forgot() {
        let mut ring = Ring::default();
        let mut copies = Vec::new();
        for index in 1..1_000 {
            ring.push(event(index));
            if ring.len() > 150 {
                ring.pop();
            }
            let oldest = index.saturating_sub(149).max(1);
            let indexes = || ring.iter().map(|event| event.position.index);
            assert!(indexes().eq(oldest..=index));
            assert!(
                ring.iter()
                    .rev()
                    .map(|event| event.position.index)
                    .eq((oldest..=index).rev())
            );
            assert_eq!(ring.forgotten(), at(oldest - 1));
            let (last, others) = ring.chunks.make_contiguous().split_last().unwrap();
            assert!(others.iter().all(|chunk| chunk.len() == CHUNK));
            assert!((1..=CHUNK).contains(&last.len()));
            for after in [
                0,
                oldest - 1,
                oldest,
                oldest + 63,
                index - 1,
                index,
                index + 1,
            ] {
                let expected = (after + 1).max(oldest)..=index;
                let indexes = ring.iter_after(at(after)).map(|event| event.position.index);
                assert!(indexes.eq(expected), "after {after} at {index}");
            }
            if index % 50 == 0 {
                copies.push((ring.clone(), oldest, index));
            }
        }
        for (copy, oldest, newest) in copies {
            assert!(
                copy.iter()
                    .map(|event| event.position.index)
                    .eq(oldest..=newest)
            );
        }
        while ring.len() > 0 {
            ring.pop();
        }
        ring.pop();
        assert_eq!((ring.iter().count(), ring.forgotten()), (0, at(999)));
    }
}
