//! The HTTP server: our own accept loop, so that a reset is a reset.

use std::future::pending;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::error::{Error, Result};
use crate::simulate::answer::{Manner, Payload};
use crate::simulate::api::{Call, InFlight, Simulator, lock};
use crate::simulate::days;
use crate::simulate::faults::Faults;
use crate::simulate::options::Serve;

/// More than any token request or faults file needs.
const MOST_BODY_BYTES: usize = 1 << 20;

/// Serves until stdin closes, if asked to, or for ever.
pub fn serve(options: &Serve) -> Result<()> {
    let faults = match &options.faults {
        None => Faults::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|cause| Error::io("read", path, &cause))?;
            Faults::parse(&text, &path.display().to_string(), options.which.seed)?
        }
    };
    let listener = listen(options.port)?;
    let world = days::world(options.which.seed, usize::from(options.which.scale), options.which.day);
    let simulator = Arc::new(Simulator::new(options, world, faults));
    writeln!(io::stdout(), "listening on http://{}", address(&listener)?)
        .map_err(|cause| Error::failed(format!("could not write to stdout: {cause}")))?;
    if options.until_stdin_closes {
        end_with_stdin();
    }
    run(listener, simulator)
}

/// Any free port for 0.
pub fn listen(port: u16) -> Result<StdListener> {
    let refused = |cause: io::Error| match cause.kind() {
        io::ErrorKind::AddrInUse => Error::failed(format!("could not listen on 127.0.0.1:{port}: the port is taken"))
            .hint("Choose another port, or 0 for any free one."),
        _ => Error::failed(format!("could not listen on 127.0.0.1:{port}: {cause}")),
    };
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    Ok(listener)
}

fn address(listener: &StdListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|cause| Error::failed(format!("could not tell the port: {cause}")))
}

/// Serves for ever. One thread is enough: it serves the 26 MB of a night in a tenth of a second.
pub fn run(listener: StdListener, simulator: Arc<Simulator>) -> Result<()> {
    let could_not = |cause: io::Error| Error::failed(format!("could not start serving: {cause}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(could_not)?;
    runtime.block_on(async {
        accept(TcpListener::from_std(listener).map_err(could_not)?, simulator).await;
        Ok(())
    })
}

/// Ends the process when stdin does. Nothing here needs to be put away.
fn end_with_stdin() {
    std::thread::spawn(|| {
        let mut buffer = [0; 256];
        loop {
            match io::stdin().read(&mut buffer) {
                Ok(0) => std::process::exit(0),
                Err(cause) if cause.kind() != io::ErrorKind::Interrupted => std::process::exit(0),
                _ => {}
            }
        }
    });
}

async fn accept(listener: TcpListener, simulator: Arc<Simulator>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, Arc::clone(&simulator)));
            }
            // Out of file descriptors, most likely: connections that end will free some.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// One connection, for as many requests as its client likes.
async fn converse(stream: TcpStream, simulator: Arc<Simulator>) {
    // Without it, an answer's last segment may wait for an acknowledgement. Failure costs time only.
    let _ = stream.set_nodelay(true);
    let orders = Arc::new(Orders::default());
    let wire = Wire { stream, orders: Arc::clone(&orders), has_written: false };
    let service = service_fn(|request| respond(request, &simulator, &orders));
    // An error here is a client that went away, or a fault that we play: nobody to tell.
    let _ = http1::Builder::new().title_case_headers(true).serve_connection(TokioIo::new(wire), service).await;
}

async fn respond(request: Request<Incoming>, simulator: &Simulator, orders: &Orders) -> io::Result<Response<Payload>> {
    let started = Instant::now();
    let call = read(request).await?;
    if call.path.starts_with("/_simulator/") {
        return Ok(simulator.control(&call).into_response());
    }
    let _in_flight = InFlight::new(simulator);
    let mut answer = simulator.answer(&call).await;
    match answer.manner {
        Manner::Hang => return pending().await,
        Manner::Reset => {
            orders.must_reset.store(true, Ordering::Relaxed);
            return Err(io::Error::other("a reset, as ordered"));
        }
        _ => {}
    }
    answer = answer.encoded(takes_gzip(&call));
    *lock(&orders.beyond) = answer.beyond();
    lock(&simulator.stats).body_bytes += answer.body.len() as u64;
    Ok(answer.with("x-runtime", format!("{:.6}", started.elapsed().as_secs_f64())).into_response())
}

async fn read(request: Request<Incoming>) -> io::Result<Call> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MOST_BODY_BYTES).collect().await.map_err(io::Error::other)?;
    Ok(Call {
        method: parts.method,
        path: percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned(),
        raw_query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: body.to_bytes().to_vec(),
    })
}

fn takes_gzip(call: &Call) -> bool {
    call.header("accept-encoding").unwrap_or_default().split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// What the wire is told to do against the protocol.
#[derive(Default)]
struct Orders {
    /// The connection ends in a reset.
    must_reset: AtomicBool,
    /// Bytes that follow the answer, though it did not announce them.
    beyond: Mutex<Vec<u8>>,
}

/// A TCP stream that takes orders.
struct Wire {
    stream: TcpStream,
    orders: Arc<Orders>,
    /// The answer that [`Orders::beyond`] follows is on its way: what is flushed next is its end.
    has_written: bool,
}

impl Wire {
    fn wrote(&mut self) {
        self.has_written = !lock(&self.orders.beyond).is_empty();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.orders.must_reset.load(Ordering::Relaxed) {
            // If it fails, the connection ends all the same, only more politely.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.wrote();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wrote();
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_written {
            let orders = Arc::clone(&self.orders);
            let mut beyond = lock(&orders.beyond);
            while !beyond.is_empty() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(context, &beyond))?;
                beyond.drain(..written);
            }
            self.has_written = false;
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.orders.must_reset.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(())); // a farewell would be too polite
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
