//! A program of the user's own as a child process: what it is told, what it says, how it ends.
//!
//! It may start others, and nothing of it may outlive this process, however this one ends. So it runs in a process
//! group that a guard leads ([`guard`]): another process of ours that waits on a pipe which only we hold open,
//! and kills the group when that closes.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgrp};

use crate::cli::Context;
use crate::error::{Error, Result, excerpt, lower_first};
use crate::pipeline::{Auth, OAuth2, Run, Stage};
use crate::process::die_with_parent;
use crate::stop;

/// Of a line that a program says: the rest is another line.
const LINE_BYTES: u64 = 1 << 16;
const SHOWN_CHARS: usize = 2000;
/// That wait to be logged: a program that says more than the log takes has to wait too.
const WAITING_LINES: usize = 1000;
/// Of what it said, in the message of its failure.
const LAST_LINES: usize = 5;
/// For what has been said and not read when the program ends. Who has left its group may hold the pipe for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The same when this process is asked to end, and has less than two seconds for all of it.
const LAST_WORDS_IN_HASTE: Duration = Duration::from_millis(200);
/// What a program that is told to end has for it.
const GRACE: Duration = Duration::from_secs(1);

/// Runs the program of a stage to its end; it writes to `output`.
pub fn run(context: &Context, stage: &Stage, run: &Run, output: &Path) -> Result<()> {
    let mut command = command(context, stage, run, output)?;
    warn_of_arguments(context, stage, run)?;
    let group = Group::begin()?;
    command.process_group(group.id());
    die_with_parent(&mut command);
    log::debug!(target: &stage.name, "starting `{}` {:?}", run.program, run.arguments);
    // One pipe for both, so that its lines come in the order in which they were said.
    let failed_pipe =
        |cause| Error::failed(format!("could not make a pipe for the program of `{}`: {cause}", stage.name));
    let (said, pipe) = std::io::pipe().map_err(failed_pipe)?;
    command.stdin(Stdio::null()).stdout(pipe.try_clone().map_err(failed_pipe)?).stderr(pipe);
    let child = command.spawn().map_err(|cause| no_start(context, stage, run, &cause))?;
    // It holds our ends of the pipe, which is to end with the program.
    drop(command);
    let (last, status) = listen(&stage.name, child, said, group)?;
    match status.success() {
        true => Ok(()),
        false => Err(failed(context, stage, status, last)),
    }
}

fn command(context: &Context, stage: &Stage, run: &Run, output: &Path) -> Result<Command> {
    let pipeline = &context.pipeline;
    let absolute = |path: &Path| std::path::absolute(path).map_err(|cause| Error::io("find", path, &cause));
    let mut command = Command::new(run.command(&pipeline.paths)?);
    command.args(&run.arguments).current_dir(pipeline.paths.root());
    // It needs none of them to do its work; where it does, `env` says so.
    for name in secret_variables(context) {
        command.env_remove(name);
    }
    for name in &run.env {
        let secret = context.secrets.need(name, &format!("`{name}`, which `env` of stage `{}` names,", stage.name))?;
        // What it says is logged.
        secret.hide();
        command.env(name, secret.reveal());
    }
    command.env("MIRROR42_STAGE", &stage.name);
    command.env("MIRROR42_PIPELINE", absolute(&pipeline.file)?);
    command.env("MIRROR42_OUTPUT", absolute(output)?);
    for (variable, name) in &run.with {
        command.env(Run::input_variable(variable), absolute(&pipeline.paths.all_json(name))?);
    }
    Ok(command)
}

/// The variables that hold the pipeline's own secrets: those of the API and of the database, and all of `.env`.
fn secret_variables(context: &Context) -> Vec<&str> {
    let mut names = vec!["DATABASE_URL", "PGPASSWORD"];
    names.extend(context.secrets.names());
    names.extend(context.pipeline.api.auth.secret_variable());
    match &context.pipeline.api.auth {
        Auth::OAuth2(OAuth2 { client_id_env, .. }) => names.push(client_id_env),
        Auth::Basic { user_env, .. } => names.push(user_env),
        Auth::None | Auth::Bearer { .. } | Auth::Header { .. } => {}
    }
    names
}

/// A script that is an argument (`["python3", "join.py"]`) is easily forgotten among the `inputs`.
fn warn_of_arguments(context: &Context, stage: &Stage, run: &Run) -> Result<()> {
    let paths = &context.pipeline.paths;
    let inputs = run.input_files(&context.pipeline, stage)?;
    for argument in &run.arguments {
        let plain = argument.strip_prefix("./").unwrap_or(argument);
        let ours = !Path::new(plain).is_absolute() && !plain.is_empty() && !inputs.contains_key(plain);
        if ours && paths.root().join(plain).is_file() {
            log::warn!(
                target: &stage.name,
                "the program is given `{argument}`, which is not among the stage's `inputs`: no change of it makes the stage stale"
            );
        }
    }
    Ok(())
}

/// A process group, and with it all that runs in it, until this value or this process ends.
struct Group(Child);

impl Group {
    fn begin() -> Result<Group> {
        let failed = |cause: std::io::Error| Error::failed(format!("could not start my own guard: {cause}"));
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        // The standard input is the pipe, whose other end no program is given.
        command.arg("--guard").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        command.spawn().map(Group).map_err(failed)
    }

    fn id(&self) -> i32 {
        self.0.id() as i32
    }

    /// To all of it, which may be gone.
    fn signal(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(self.id()), signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The guard is in it, and not waited for until after: nobody else has this group by then.
        self.signal(Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// The other end of [`Group`]: kills the group that this process leads when the standard input ends.
pub fn guard() -> Result<()> {
    // A signal to the group is for the program: this process outlives the program's grace.
    stop::listen(|_| {});
    let mut nothing = Vec::new();
    // Whatever ends it, nobody is left to work for.
    let _ = std::io::stdin().lock().read_to_end(&mut nothing);
    killpg(getpgrp(), Signal::SIGKILL).map_err(|cause| Error::failed(format!("could not end the group: {cause}")))
}

enum Message {
    Said(String),
    /// Nobody has its pipe open any more.
    Silent,
    Ended(std::io::Result<ExitStatus>),
    /// This process is asked to end: [`Asked`] says how.
    Asked,
}

/// The signal by which this process was asked to end, and when. It does not wait behind what the program says.
type Asked = OnceLock<(&'static str, Instant)>;

/// Logs what the program says until it has ended; returns the last of it. When this process is asked to end, so is the
/// program, with all that it has started; what is left of them after a second is killed.
fn listen(stage: &str, mut child: Child, said: PipeReader, group: Group) -> Result<(VecDeque<String>, ExitStatus)> {
    let (sender, receiver) = sync_channel(WAITING_LINES);
    hear(said, sender.clone());
    let asked = Arc::new(Asked::new());
    let (listener, asks, id) = (sender.clone(), Arc::clone(&asked), group.id());
    stop::listen(move |event| {
        if let stop::Event::Asked(signal) = event
            && asks.set((signal, Instant::now())).is_ok()
        {
            // At once, whatever is still to be heard. The group is there until nobody listens here.
            let _ = killpg(Pid::from_raw(id), Signal::SIGTERM);
            // Where there is no room, there is no sleeper to be woken either.
            let _ = listener.try_send(Message::Asked);
        }
    });
    std::thread::spawn(move || {
        // Nobody hears it only if this process is ending.
        let _ = sender.send(Message::Ended(child.wait()));
    });
    let heard = hear_out(stage, &receiver, &group, &asked);
    stop::unlisten();
    match heard {
        Heard { asked: Some(signal), .. } => Err(stop::error(signal)),
        Heard { status: Some(Ok(status)), last, .. } => Ok((last, status)),
        Heard { status: Some(Err(cause)), .. } => {
            Err(Error::failed(format!("could not wait for the program of stage `{stage}`: {cause}")))
        }
        Heard { status: None, .. } => Err(Error::failed(format!("could not wait for the program of stage `{stage}`"))),
    }
}

/// What was heard of a program.
#[derive(Default)]
struct Heard {
    last: VecDeque<String>,
    status: Option<std::io::Result<ExitStatus>>,
    /// The signal by which this process was asked to end meanwhile.
    asked: Option<&'static str>,
}

fn hear_out(stage: &str, receiver: &Receiver<Message>, group: &Group, asked: &Asked) -> Heard {
    let mut heard = Heard::default();
    let mut is_silent = false;
    let mut until = None;
    while heard.status.is_none() || !is_silent {
        if heard.asked.is_none()
            && let Some((signal, at)) = asked.get()
        {
            heard.asked = Some(*signal);
            if heard.status.is_none() {
                until = Some(*at + GRACE);
            }
        }
        match next(receiver, until) {
            Some(Message::Said(line)) => {
                log::info!(target: stage, "{line}");
                heard.last.push_back(line);
                if heard.last.len() > LAST_LINES {
                    heard.last.pop_front();
                }
            }
            Some(Message::Silent) => is_silent = true,
            Some(Message::Ended(ended)) => {
                heard.status = Some(ended);
                // What it has left running would hold the pipe.
                group.signal(Signal::SIGKILL);
                until = Some(Instant::now() + if heard.asked.is_some() { LAST_WORDS_IN_HASTE } else { LAST_WORDS });
            }
            Some(Message::Asked) => {}
            // It has not ended in its time.
            None if heard.status.is_none() && until.is_some() => {
                group.signal(Signal::SIGKILL);
                until = None;
            }
            None => break,
        }
    }
    heard
}

fn next(receiver: &Receiver<Message>, until: Option<Instant>) -> Option<Message> {
    match until {
        // Before what is there to be received: of a program that never stops talking, there is always something.
        Some(until) if until <= Instant::now() => None,
        Some(until) => receiver.recv_timeout(until.saturating_duration_since(Instant::now())).ok(),
        None => receiver.recv().ok(),
    }
}

fn hear(pipe: PipeReader, sender: SyncSender<Message>) {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        loop {
            let mut line = Vec::new();
            // An error is the end too: of a pipe it can be nothing else.
            match pipe.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
            let line = excerpt(String::from_utf8_lossy(&line).trim_end(), SHOWN_CHARS);
            if !line.is_empty() && sender.send(Message::Said(line)).is_err() {
                return;
            }
        }
        // Nobody hears it only if the program was not to be waited for any longer.
        let _ = sender.send(Message::Silent);
    });
}

fn no_start(context: &Context, stage: &Stage, run: &Run, cause: &std::io::Error) -> Error {
    let place = context.pipeline.place(stage.line);
    let path = run.program.contains('/');
    let (program, name) = (&run.program, &stage.name);
    let error = match cause.kind() {
        std::io::ErrorKind::NotFound if !path => {
            Error::failed(format!("the program `{program}` of stage `{name}` is not on PATH"))
                .detail(format!("PATH is `{}`.", std::env::var("PATH").unwrap_or_default()))
        }
        _ => {
            let cause = lower_first(&cause.to_string());
            Error::failed(format!("could not start the program `{program}` of stage `{name}`: {cause}"))
        }
    };
    let error = match cause.kind() {
        std::io::ErrorKind::PermissionDenied if path => error.hint(format!("Run `chmod +x {program}`.")),
        _ => error,
    };
    error.at(place)
}

fn failed(context: &Context, stage: &Stage, status: ExitStatus, last: VecDeque<String>) -> Error {
    let mut message = format!("the program of stage `{}` ", stage.name);
    // Writing to a String cannot fail.
    let _ = match (status.code(), status.signal()) {
        (Some(code), _) => write!(message, "ended with exit code {code}"),
        (None, Some(signal)) => write!(message, "was killed by signal {signal}"),
        (None, None) => write!(message, "ended oddly"),
    };
    let error = Error::failed(message).at(context.pipeline.place(stage.line));
    let error = match last.is_empty() {
        true => error.detail("It said nothing."),
        false => last.into_iter().fold(error, |error, line| error.detail(format!("It said: {line}"))),
    };
    error.detail("All exports are as they were.")
}
