//! The connections of asynchronous calls: one for each tokio runtime that calls come from, whose own reads and writes need
//! no other thread; and one on this crate's background thread for calls from anywhere else.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};
use tokio::sync::{oneshot, watch};

use super::link::{Ended, Link, drive};
use super::node::{Failure, Message};
use super::opener::{Opener, unreachable};
use super::resp::Reply;
use crate::background;
use crate::error::BackendError;

pub(super) struct Links {
    opener: Arc<Opener>,
    places: Arc<Places>,
}

/// By runtime. Few: programs have one or two.
type Places = Mutex<Vec<(Id, Place)>>;

#[derive(Clone)]
enum Place {
    Opening(Attempt),
    Open(Link),
    /// A runtime without input and output.
    Unfit,
}

/// The outcome once it is known; no link in a runtime that is unfit for one.
type Attempt = watch::Receiver<Option<Result<Option<Link>, BackendError>>>;

impl Links {
    pub(super) fn new(opener: Arc<Opener>) -> Links {
        Links { opener, places: Arc::default() }
    }

    pub(super) async fn call(&self, message: &Message, deadline: Instant) -> Result<Reply, Failure> {
        let background = background::handle().map_err(|error| Failure::new(no_thread(&error)))?;
        let runtime = Handle::try_current().unwrap_or_else(|_| background.clone());
        let link = match self.place(runtime.id()) {
            Some(Place::Open(link)) if link.is_open() => link,
            _ => {
                let opened = background::until(background, deadline, self.open(runtime, background));
                let opened = opened.await.unwrap_or_else(|| Err(self.opener.endpoint.late()));
                opened.map_err(Failure::new)?
            }
        };
        link.call(message, deadline).await
    }

    /// Closes the links; calls that wait for answers go on waiting.
    pub(super) fn clear(&self) {
        let open = |(_, place): &mut (Id, Place)| matches!(place, Place::Open(_));
        let gone: Vec<_> = self.places.lock().extract_if(.., open).collect();
        drop(gone);
    }

    fn place(&self, id: Id) -> Option<Place> {
        self.places.lock().iter().find(|(other, _)| *other == id).map(|(_, place)| place.clone())
    }

    /// The link of a runtime, or of the background where the runtime is unfit.
    async fn open(&self, mut runtime: Handle, background: &Handle) -> Result<Link, BackendError> {
        loop {
            let mut attempt = match self.attempt(&runtime, background) {
                Place::Open(link) => return Ok(link),
                Place::Opening(attempt) => attempt,
                Place::Unfit if runtime.id() == background.id() => {
                    return Err(unreachable("the background thread has ended"));
                }
                Place::Unfit => {
                    runtime = background.clone();
                    continue;
                }
            };
            let outcome = attempt.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
            if let Some(link) = outcome.unwrap_or_else(|| Err(unreachable("the attempt to reach Redis ended")))? {
                return Ok(link);
            }
        }
    }

    /// What there is for a runtime; an attempt to open a link is begun where there is nothing.
    fn attempt(&self, runtime: &Handle, background: &Handle) -> Place {
        let id = runtime.id();
        // Dropped without the lock.
        let _gone;
        let mut places = self.places.lock();
        let position = places.iter().position(|(other, _)| *other == id);
        if let Some(position) = position {
            let of_use = match &places[position].1 {
                Place::Open(link) => link.is_open(),
                // An attempt whose end nobody will tell is over.
                Place::Opening(attempt) => attempt.has_changed().is_ok(),
                Place::Unfit => true,
            };
            if of_use {
                return places[position].1.clone();
            }
            _gone = places.swap_remove(position);
        }
        let (sender, attempt) = watch::channel(None);
        places.push((id, Place::Opening(attempt.clone())));
        let (opener, runtime, all) = (Arc::clone(&self.opener), runtime.clone(), Arc::clone(&self.places));
        background.spawn(async move {
            let outcome = open(opener, runtime, &all).await;
            let place = match &outcome {
                Ok(Some(link)) => Some(Place::Open(link.clone())),
                Ok(None) => Some(Place::Unfit),
                Err(_) => None,
            };
            let mut places = all.lock();
            places.retain(|(other, _)| *other != id);
            places.extend(place.map(|place| (id, place)));
            drop(places);
            sender.send_replace(Some(outcome));
        });
        Place::Opening(attempt)
    }
}

async fn open(opener: Arc<Opener>, runtime: Handle, places: &Arc<Places>) -> Result<Option<Link>, BackendError> {
    let line = opener.open().await?;
    let (ready, started) = oneshot::channel();
    let (weak, id) = (Arc::downgrade(places), runtime.id());
    let ended: Ended = Box::new(move |link| {
        if let Some(places) = weak.upgrade() {
            // Dropped without the lock: a link that goes wakes others.
            let gone = {
                let mut places = places.lock();
                let gone = places
                    .iter()
                    .position(|(other, place)| *other == id && matches!(place, Place::Open(other) if other.is(link)));
                gone.map(|position| places.swap_remove(position))
            };
            drop(gone);
        }
    });
    let driver = runtime.spawn(drive(line, opener, ready, ended));
    if let Ok(link) = started.await {
        return Ok(Some(link));
    }
    match driver.await {
        // Without input and output, tokio's sockets panic.
        Err(error) if error.is_panic() => Ok(None),
        _ => Err(unreachable("the runtime ended")),
    }
}

fn no_thread(error: &std::io::Error) -> BackendError {
    unreachable(&format!("no background thread can be started: {error}"))
}
