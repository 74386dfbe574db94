//! hob's turns: in this process, from the mapped file.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hob::{Device, Model, Session};
use hob_benches::tokens;

use super::{Runner, Test};

/// The model, open once for each number of threads: to open it is to map the file again, which takes no memory.
pub(super) struct Hob {
    path: PathBuf,
    models: Vec<Model>,
    /// Tokens of the longest test.
    context: usize,
}

impl Hob {
    pub(super) fn new(path: &Path, tests: &[Test]) -> Hob {
        Hob { path: path.to_owned(), models: Vec::new(), context: tests.iter().map(|test| test.tokens()).max().unwrap_or(1) }
    }

    fn model(&mut self, threads: usize) -> hob::Result<Model> {
        if let Some(model) = self.models.iter().find(|model| model.threads() == threads) {
            return Ok(model.clone());
        }
        let options = Model::options().device(Device::Cpu).threads(threads).context(self.context).chat_template("chatml");
        let model = options.open(&self.path)?;
        // How fast the file comes from the disk is not what is measured.
        while !model.read_ahead().is_done() {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.models.push(model.clone());
        Ok(model)
    }
}

impl Runner for Hob {
    fn name(&self) -> String {
        format!("hob {}", env!("CARGO_PKG_VERSION"))
    }

    fn turn(&mut self, threads: usize, tests: &[Test]) -> Result<Vec<f64>, Box<dyn Error>> {
        let mut session = self.model(threads)?.session()?;
        tests.iter().map(|test| Ok(time(&mut session, *test)?)).collect()
    }
}

/// Tokens a second of a test, after a run to warm up.
fn time(session: &mut Session, test: Test) -> hob::Result<f64> {
    let tokens = tokens(test.tokens(), session.model().config().vocab);
    session.clear()?;
    session.feed(&tokens[..test.at_once()])?;
    session.clear()?;
    let start = Instant::now();
    tokens.chunks(test.at_once()).try_for_each(|tokens| session.feed(tokens))?;
    Ok(tokens.len() as f64 / start.elapsed().as_secs_f64())
}
