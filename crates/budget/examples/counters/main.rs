//! Measures the counters beside what they could be compared with; `bench/rows_budget.py` makes rows of it.
//!
//!     counters embedded ROUNDS     one admission in memory: a token and three scopes
//!     counters redis URL ROUNDS    one round trip each, in turns: PING, SET NX PX, an admission of a token with
//!                                  one scope, and with three, and the algorithms of `peers.lua`
//!     counters server URL ROUNDS   the same, 50 at a time: what the server's CPU pays for each
//!
//! Prints one JSON object: nanoseconds of each round, or for `server` of the whole divided by its calls.

use std::{collections::BTreeMap, error::Error, sync::Arc, time::Instant};

use agentwall_budget::{
    Answer, Ask, Counters, Embedded, EmbeddedConfig, Jti, Limits, Redis, RedisConfig, Scope, UNIT,
};
use redis::{Value, aio::MultiplexedConnection};
use tokio::task::JoinSet;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const PEERS: &str = include_str!("peers.lua");
const FAR: u64 = 1_000_000_000 * UNIT;
const AT_A_TIME: u64 = 50;
const KINDS: [&str; 7] = [
    "ping",
    "set_nx",
    "one",
    "three",
    "gcra",
    "two_buckets",
    "fields",
];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let told = match args[..] {
        ["embedded", rounds] => embedded(rounds.parse()?)?,
        ["redis", url, rounds] => runtime.block_on(redis(url, rounds.parse()?))?,
        ["server", url, rounds] => runtime.block_on(server(url, rounds.parse()?))?,
        _ => {
            return Err(
                "usage: counters embedded ROUNDS | redis URL ROUNDS | server URL ROUNDS".into(),
            );
        }
    };
    let rows = told
        .iter()
        .map(|(name, times)| format!("\"{name}\": {times:?}"));
    println!("{{{}}}", rows.collect::<Vec<_>>().join(", "));
    Ok(())
}

type Told = BTreeMap<&'static str, Vec<u64>>;

const KEYS: [&str; 3] = ["agent:a", "project:p", "capability:c"];

fn scopes() -> [Scope<'static>; 3] {
    KEYS.map(|key| Scope {
        key,
        limits: Limits {
            minute: Some(FAR),
            hour: Some(FAR),
            day: Some(FAR),
        },
        cost: UNIT,
        wide: false,
    })
}

fn token(value: &str) -> Option<Jti<'_>> {
    Some(Jti {
        identity: "agent",
        value,
        window: std::time::Duration::from_secs(90),
    })
}

fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn embedded(rounds: u64) -> Result<Told> {
    let counters = Embedded::new(EmbeddedConfig {
        max_tokens: usize::try_from(rounds)?,
        ..EmbeddedConfig::default()
    });
    let scopes = scopes();
    let mut times = Vec::new();
    for round in 0..rounds {
        let value = round.to_string();
        let ask = Ask {
            jti: token(&value),
            scopes: &scopes,
            ..Ask::default()
        };
        let start = Instant::now();
        let admitted = counters.admit(&ask)?;
        times.push(since(start));
        let Answer::Granted(_) = admitted.answer else {
            return Err(format!("{:?}", admitted.answer).into());
        };
    }
    Ok(BTreeMap::from([("three", times)]))
}

/// One question of each kind.
#[derive(Clone)]
struct Asker {
    link: MultiplexedConnection,
    counters: Arc<Counters>,
}

impl Asker {
    async fn new(url: &str) -> Result<Asker> {
        let mut link = redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        let mut load = redis::cmd("FUNCTION");
        load.arg("LOAD")
            .arg("REPLACE")
            .arg(PEERS)
            .exec_async(&mut link)
            .await?;
        let config = RedisConfig {
            deadline: std::time::Duration::from_secs(10),
            ..RedisConfig::new(url, "bench")
        };
        let counters = Arc::new(Counters::Redis(Box::new(Redis::new(&config)?)));
        Ok(Asker { link, counters })
    }

    async fn ask(&self, kind: &str, name: &str) -> Result<()> {
        let mut link = self.link.clone();
        let command = match kind {
            "one" => return self.admit(name, 1).await,
            "three" => return self.admit(name, 3).await,
            "ping" => redis::cmd("PING"),
            "set_nx" => {
                let mut set = redis::cmd("SET");
                set.arg(name).arg("1").arg("NX").arg("PX").arg(90_000);
                set
            }
            peer => {
                let mut call = redis::cmd("FCALL");
                call.arg(format!("agentwall_peer_{peer}")).arg(3);
                call.arg(name)
                    .arg(format!("counters:{peer}"))
                    .arg(format!("r:{name}"));
                call.arg(UNIT).arg(FAR).arg(FAR).arg(FAR);
                call
            }
        };
        let answer: Value = command.query_async(&mut link).await?;
        match answer {
            Value::Int(0) | Value::Okay | Value::SimpleString(_) => Ok(()),
            other => Err(format!("{kind}: {other:?}").into()),
        }
    }

    async fn admit(&self, name: &str, count: usize) -> Result<()> {
        let ask = Ask {
            jti: token(name),
            scopes: &scopes()[..count],
            ..Ask::default()
        };
        match self.counters.admit(&ask).await?.answer {
            Answer::Granted(_) => Ok(()),
            other => Err(format!("{other:?}").into()),
        }
    }
}

async fn redis(url: &str, rounds: u64) -> Result<Told> {
    let asker = Asker::new(url).await?;
    let mut told = Told::new();
    for round in 0..rounds + rounds / 10 {
        for kind in KINDS {
            let name = format!("{kind}-{round}");
            let start = Instant::now();
            asker.ask(kind, &name).await?;
            if round >= rounds / 10 {
                told.entry(kind).or_default().push(since(start));
            }
        }
    }
    Ok(told)
}

async fn server(url: &str, rounds: u64) -> Result<Told> {
    let asker = Asker::new(url).await?;
    let mut link = asker.link.clone();
    let mut told = Told::new();
    for turn in 0..5 {
        for kind in KINDS {
            redis::cmd("CONFIG")
                .arg("RESETSTAT")
                .exec_async(&mut link)
                .await?;
            let mut tasks = JoinSet::new();
            for task in 0..AT_A_TIME {
                let asker = asker.clone();
                tasks.spawn(async move {
                    for round in 0..rounds / AT_A_TIME {
                        asker
                            .ask(kind, &format!("{kind}-{turn}-{task}-{round}"))
                            .await?;
                    }
                    Ok::<_, Box<dyn Error + Send + Sync>>(())
                });
            }
            for done in tasks.join_all().await {
                done?;
            }
            let stats: String = redis::cmd("INFO")
                .arg("commandstats")
                .query_async(&mut link)
                .await?;
            told.entry(kind).or_default().push(paid(&stats, kind)?);
        }
    }
    Ok(told)
}

/// Nanoseconds of a call in the server's own statistics.
fn paid(stats: &str, kind: &str) -> Result<u64> {
    let command = match kind {
        "ping" => "cmdstat_ping:",
        "set_nx" => "cmdstat_set:",
        _ => "cmdstat_fcall:",
    };
    let line = stats
        .lines()
        .find(|l| l.starts_with(command))
        .ok_or("no statistics")?;
    let number = |name: &str| {
        let field = line.split([':', ',']).find_map(|f| f.strip_prefix(name));
        field
            .and_then(|f| f.parse::<u64>().ok())
            .ok_or("no statistics")
    };
    Ok(number("usec=")? * 1000 / number("calls=")?)
}
