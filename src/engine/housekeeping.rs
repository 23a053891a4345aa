//! What goes on beside the workers while they run: ends and positions, commits, failures.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use floodmark_dataflows::time::Millis;
use tokio::time::{MissedTickBehavior, interval};

use super::shutdown::Shutdown;
use crate::checkpoint::Checkpoints;
use crate::live::progress::ProgressBoard;
use crate::sources::{Positions, Source};
use crate::stores::writer::Writer;

/// How often.
const EVERY: Duration = Duration::from_millis(500);
/// Commits are for tools that show lag: every so many rounds.
const COMMIT_ROUNDS: u32 = 4;
/// What was read is noted every so many rounds, also where no checkpoint comes.
const NOTE_ROUNDS: u32 = 10;
/// That may take so long.
const NOTED_WITHIN: Duration = Duration::from_secs(5);
/// Frontiers that wait to be indexed; the rest are between them.
const MAX_WAITING: usize = 1_000;

/// Looks after a run.
pub(super) struct Housekeeping<S> {
    pub source: Arc<S>,
    pub writer: Writer,
    pub board: Arc<ProgressBoard>,
    pub shutdown: Shutdown,
    pub tick_ms: u64,
    pub checkpoints: Option<Checkpoints>,
}

impl<S> Clone for Housekeeping<S> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            writer: self.writer.clone(),
            board: self.board.clone(),
            shutdown: self.shutdown.clone(),
            tick_ms: self.tick_ms,
            checkpoints: self.checkpoints.clone(),
        }
    }
}

impl<S: Source> Housekeeping<S> {
    /// Runs until it is aborted.
    pub async fn run(self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = VecDeque::new();
        let mut round = 0u32;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                error = self.writer.failure(), if !self.shutdown.is_triggered() => {
                    tracing::error!(%error, "the store failed: the run ends");
                    self.shutdown.trigger();
                }
            }
            if let Some(failure) = self.source.failure()
                && !self.shutdown.is_triggered()
            {
                tracing::error!(failure, "the source failed: the run ends");
                self.shutdown.trigger();
            }
            if self.checkpoints.as_ref().is_some_and(|checkpoints| checkpoints.failure().is_some()) {
                // Said when it happened.
                self.shutdown.trigger();
            }
            self.board.set_ends(&self.source.ends());
            self.board.set_paths(self.source.paths());
            self.note_indexed(&mut waiting);
            round += 1;
            if round.is_multiple_of(COMMIT_ROUNDS) {
                self.commit().await;
            }
            if round.is_multiple_of(NOTE_ROUNDS) {
                self.note_reading().await;
            }
        }
    }

    /// Tells the source up to where everything is in a checkpoint; without checkpoints, up to where it is stored.
    async fn commit(&self) {
        let positions = match &self.checkpoints {
            Some(checkpoints) => checkpoints.take_committed_positions(),
            None => {
                let stored = self.writer.acknowledged();
                // No checkpoint asks for those before an earlier place.
                stored.iter().for_each(|(partition, next)| self.writer.settle_refused(partition, *next));
                stored
            }
        };
        self.commit_positions(&positions).await;
    }

    /// At the end, however it came: what is stored counts, so that lag tools see where reading stopped. What the next run
    /// goes on from is in the checkpoint, before that or not.
    pub async fn commit_at_end(&self) {
        let stored = self.writer.acknowledged();
        self.commit_positions(&stored).await;
        self.note_stored(&stored);
        self.note_reading().await;
    }

    /// Notes what was read; of this no run may wait for long.
    async fn note_reading(&self) {
        let Some(checkpoints) = &self.checkpoints else { return };
        let noted = tokio::time::timeout(NOTED_WITHIN, checkpoints.note_reading()).await;
        let problem = match noted {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", NOTED_WITHIN.as_secs()),
        };
        tracing::warn!(
            "what was read could not be noted beside the checkpoints ({problem}): void dead letters stay listed"
        );
    }

    async fn commit_positions(&self, positions: &Positions) {
        if positions.is_empty() {
            return;
        }
        if let Err(error) = self.source.commit(positions).await {
            tracing::warn!(%error, "positions could not be committed; lag shown by other tools is too high");
        }
    }

    fn note_stored(&self, stored: &Positions) {
        self.board.set_stored(stored, |partition, offset| self.writer.refused_before(partition, offset));
    }

    /// When everything read by the time a frontier was seen is stored, the frontier is indexed.
    fn note_indexed(&self, waiting: &mut VecDeque<(Millis, Positions)>) {
        let snapshot = self.board.snapshot();
        let stored = self.writer.acknowledged();
        self.note_stored(&stored);
        while let Some((frontier, read)) = waiting.front()
            && read.iter().all(|(partition, next)| stored.get(partition).is_some_and(|stored| stored >= next))
        {
            self.board.set_indexed_through(*frontier);
            waiting.pop_front();
        }
        if let Some(frontier) = snapshot.frontier()
            && waiting.len() < MAX_WAITING
            && waiting.back().is_none_or(|(last, _)| *last < frontier * self.tick_ms)
        {
            let read = snapshot.partitions.iter().filter(|(_, state)| state.progress.next_offset > 0);
            let read = read.map(|(partition, state)| ((**partition).clone(), state.progress.next_offset)).collect();
            waiting.push_back((frontier * self.tick_ms, read));
        }
    }
}
