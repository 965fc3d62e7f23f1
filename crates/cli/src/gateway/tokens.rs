//! API tokens of a gateway: kept as digests in a file that the gateway alone writes.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use agentwall_identity::{ApiToken, ApiTokens, ApiUse, Secret};
use anyhow::{Context as _, Result, bail};

use super::{Place, recorder::Book};
use crate::{session::write_atomically, state::now_ms, state::shown};

const DAY: i64 = 86_400;

/// The tokens of a gateway that runs.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    /// Those that may be used.
    pub all: Arc<ApiTokens>,
    book: Arc<Book>,
    /// Held from a change until it is in the file: what is written is never older than what is there.
    changing: Mutex<()>,
}

impl Tokens {
    /// Those that were kept; none if there is no file.
    pub fn open(place: &Place, book: Arc<Book>) -> Result<Tokens> {
        let path = place.tokens();
        let wrong = || format!("cannot use the tokens in {}", shown(&path));
        let records: Vec<ApiToken> = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(wrong)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e).with_context(wrong),
        };
        let all = Arc::new(ApiTokens::new(records).with_context(wrong)?);
        Ok(Tokens {
            path,
            all,
            book,
            changing: Mutex::new(()),
        })
    }

    /// Makes a token. It is recorded and kept before anybody knows it.
    pub fn add(
        &self,
        name: &str,
        uses: &[ApiUse],
        days: u32,
        by: &str,
    ) -> Result<(Secret, ApiToken)> {
        let _one = self.changing.lock();
        let now = (now_ms() / 1000).cast_signed();
        let made = self.all.add(name, uses, now, now + i64::from(days) * DAY)?;
        let kept = (self.book.token("token.added", &made.1, by))
            .map_err(anyhow::Error::from)
            .and_then(|()| self.keep());
        if let Err(e) = kept {
            self.all.remove(&made.1.id);
            return Err(e);
        }
        Ok(made)
    }

    /// Ends a token. It has ended in this process also if that cannot be kept.
    pub fn remove(&self, which: &str, by: &str) -> Result<ApiToken> {
        let _one = self.changing.lock();
        let Some(gone) = self.all.remove(which) else {
            bail!("there is no such token; 'agentwall gateway token list' has them");
        };
        let here = "it has ended in this process alone";
        self.keep().context(here)?;
        self.book.token("token.removed", &gone, by).context(here)?;
        Ok(gone)
    }

    fn keep(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.all.records())?;
        write_atomically(&self.path, &text)
            .with_context(|| format!("cannot write {}", shown(&self.path)))
    }
}
