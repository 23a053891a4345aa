//! SIGTERM and SIGINT: the first asks for a clean stop, the second ends the process at once.

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// Calls `stop` at the first SIGTERM or SIGINT; ends the process at the second, with 128 plus the signal's number as a
/// shell would see it. Signals count from when this returns.
pub fn on_stop(stop: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let wait = async move {
        let mut stop = Some(stop);
        loop {
            let code = tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            };
            match stop.take() {
                Some(stop) => {
                    tracing::info!("stopping: what is under way is being written out; a second signal ends at once");
                    stop();
                }
                None => std::process::exit(code),
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(wait))?;
    Ok(())
}
