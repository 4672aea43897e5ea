//! The moment at which a request leaves.
//!
//! A slot counts from when the request's first byte goes out. That is known only below HTTP: a new connection takes a
//! while (the network's, and the handshake of TLS) between the slot's moment and the request. So a thread hands its slot
//! down ([`arm`]), and the transport takes it up when it is about to write. ureq calls the transport on the thread of
//! the request. Its transports are not covered by its promise of stable versions: Cargo.lock has the one that is known.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, Either, NextTimeout, Transport};

use crate::limiter::{Limiter, Slot};

thread_local! {
    static SLOT: Cell<Option<Slot>> = const { Cell::new(None) };
    static LEFT: Cell<Option<Left>> = const { Cell::new(None) };
}

/// When a request left.
#[derive(Clone, Copy)]
pub struct Left {
    pub at: Timestamp,
    /// The same, by a clock that nobody sets.
    pub since: Instant,
}

/// When this thread's last request left.
pub fn left() -> Left {
    LEFT.get().unwrap_or_else(Left::now)
}

impl Left {
    fn now() -> Left {
        Left { at: Timestamp::now(), since: Instant::now() }
    }
}

/// Hands down the slot of this thread's next request; gives the one that was there. A request for a token comes in
/// between a slot and its request.
pub fn arm(slot: Option<Slot>) -> Option<Slot> {
    SLOT.replace(slot)
}

/// The slot of this thread's last request, if it was sent.
pub fn sent() -> Option<Slot> {
    SLOT.get().filter(Slot::is_sent)
}

/// Why a request was not sent: its slot was not good any more.
#[derive(Debug)]
pub struct Held;

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it was held back by the rate limit")
    }
}

impl std::error::Error for Held {}

/// The last link of a chain of connectors.
#[derive(Debug)]
pub struct Gate {
    pub limiter: Arc<Limiter>,
    /// Whether requests go through a proxy. The request to the proxy itself, which goes through this chain too and has
    /// no proxy of its own, takes no slot.
    pub proxied: bool,
}

impl<In: Transport> Connector<In> for Gate {
    type Out = Either<In, Gated<In>>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let to_api = details.config.proxy().is_some() == self.proxied;
        Ok(chained.map(|inner| match to_api {
            true => Either::B(Gated { inner, limiter: Arc::clone(&self.limiter) }),
            false => Either::A(inner),
        }))
    }
}

/// A connection to the API.
#[derive(Debug)]
pub struct Gated<T> {
    inner: T,
    limiter: Arc<Limiter>,
}

impl<T: Transport> Transport for Gated<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let Some(slot) = SLOT.get().filter(|slot| !slot.is_sent()) else {
            return self.inner.transmit_output(amount, timeout);
        };
        let failed = |error: crate::error::Error| ureq::Error::Other(Box::new(error));
        let slot = self.limiter.depart(slot).map_err(failed)?.ok_or_else(|| ureq::Error::Other(Box::new(Held)))?;
        SLOT.set(Some(slot));
        LEFT.set(Some(Left::now()));
        self.inner.transmit_output(amount, timeout)?;
        self.limiter.departed(slot).map_err(failed)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
