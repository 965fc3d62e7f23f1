//! Identities that several instances share, in PostgreSQL.
//!
//! Records are kept whole, as in SQLite, for each gateway name. A change locks the gateway's row, which has the number of its last
//! event, so changes of all instances have one order. It is on the disk when it returns (`synchronous_commit` is set to `on`,
//! whatever the server's default). Whoever listens is told by `NOTIFY` when it is committed.
//!
//! Every question has a deadline, and a connection that breaks is made anew by the next question. To another host
//! there is TLS, with the server's certificate verified, or no connection.

use std::{
    fmt,
    future::poll_fn,
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    task::Context,
    time::Duration,
};

use agentwall_identity::{Agent, AgentId, Change, Contents, Event, Host, Store, StoreError};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{runtime::Runtime, sync::Mutex as AsyncMutex};
use tokio_postgres::{
    AsyncMessage, Client, Config, IsolationLevel, Transaction,
    config::{Host as Address, SslMode},
    types::ToSql,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{read, signed, write};

/// How long a question may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// The version of the tables.
const VERSION: i32 = 1;

/// Taken while the tables are made: `agentwa` in ASCII.
const LOCK: i64 = 0x61_67_65_6e_74_77_61;

const TABLES: &str = "
    CREATE TABLE agentwall_version (version int NOT NULL);
    INSERT INTO agentwall_version VALUES (1);
    CREATE TABLE agentwall_gateways (gateway text PRIMARY KEY, last_event bigint NOT NULL);
    CREATE TABLE agentwall_hosts (gateway text, id text, record text NOT NULL, PRIMARY KEY (gateway, id));
    CREATE TABLE agentwall_agents (gateway text, id text, host text NOT NULL, record text NOT NULL, used_at bigint,
                                   PRIMARY KEY (gateway, id));
    CREATE TABLE agentwall_events (gateway text, number bigint, record text NOT NULL, PRIMARY KEY (gateway, number));
";

/// Hosts, agents and events of one gateway's instances in a PostgreSQL database.
pub struct PostgresStore {
    /// Questions are asked here: whoever calls may be on a runtime of their own.
    runtime: Option<Runtime>,
    link: Arc<Link>,
    /// How many changes were heard of when somebody waited last.
    heard: Mutex<u64>,
}

/// What is needed to ask.
struct Link {
    config: Config,
    tls: MakeRustlsConnect,
    gateway: String,
    client: AsyncMutex<Option<Client>>,
    changes: Changes,
}

/// How many changes were heard of.
#[derive(Default)]
struct Changes {
    count: Mutex<u64>,
    more: Condvar,
}

impl Changes {
    fn heard(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.more.notify_all();
    }

    /// Waits for more than `seen`; how many there are.
    fn wait(&self, seen: u64, patience: Duration) -> u64 {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .more
            .wait_timeout_while(count, patience, |count| *count == seen);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Without the connection's text, which may have a password.
impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("gateway", &self.link.gateway)
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects, and makes the tables where there are none. `url` is a connection string of libpq
    /// (`postgres://user:password@host/database`, or `host=… user=…`); instances of one `gateway` share everything.
    ///
    /// # Errors
    /// The text is none, nobody answers, or the tables are of another version.
    pub fn open(url: &str, gateway: &str) -> Result<Self, StoreError> {
        // Its error may show parts of the text.
        let mut config: Config = url.parse().map_err(|_| {
            StoreError::Failed(
                "this is no connection string of PostgreSQL; one is postgres://USER:PASSWORD@HOST/DATABASE".to_owned(),
            )
        })?;
        config
            .application_name("agentwall")
            .connect_timeout(DEADLINE)
            .keepalives_idle(Duration::from_secs(10));
        if !config.get_hosts().iter().all(is_here) {
            config.ssl_mode(SslMode::Require);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(BuilderVerifierExt::with_platform_verifier)
            .map_err(failed)?
            .with_no_client_auth();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("identities")
            .enable_all()
            .build()
            .map_err(failed)?;
        let store = PostgresStore {
            runtime: Some(runtime),
            link: Arc::new(Link {
                config,
                tls: MakeRustlsConnect::new(tls),
                gateway: gateway.to_owned(),
                client: AsyncMutex::new(None),
                changes: Changes::default(),
            }),
            heard: Mutex::new(0),
        };
        store.ask(Link::load)?;
        Ok(store)
    }

    /// Asks the database on the store's own thread, and waits.
    fn ask<T, F>(&self, question: impl FnOnce(Arc<Link>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (to, answer) = mpsc::sync_channel(1);
        let question = question(Arc::clone(&self.link));
        let runtime = self.runtime.as_ref().ok_or_else(gone)?;
        runtime.spawn(async move {
            let late = |_| Err(StoreError::Failed(format!("no answer within {DEADLINE:?}")));
            let answered = tokio::time::timeout(DEADLINE, question).await;
            let _ = to.send(answered.unwrap_or_else(late));
        });
        answer.recv().map_err(|_| gone())?
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        // It may be dropped on a runtime, where nobody may wait for another one to end.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Store for PostgresStore {
    fn load(&self) -> Result<Contents, StoreError> {
        self.ask(Link::load)
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let change = change.clone();
        self.ask(|link| link.commit(change))
    }

    fn since(&self, after: u64) -> Result<Change, StoreError> {
        self.ask(|link| link.since(after))
    }

    fn wait(&self, patience: Duration) -> Result<(), StoreError> {
        // Who hears nothing because the connection broke finds out by the next question.
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard = self.link.changes.wait(*heard, patience);
        Ok(())
    }

    fn used_since(&self, from: i64) -> Result<Vec<(AgentId, i64)>, StoreError> {
        self.ask(|link| link.used_since(from))
    }

    fn note_use(&self, used: &[(AgentId, i64)]) -> Result<(), StoreError> {
        let used = used.to_vec();
        self.ask(|link| link.note_use(used))
    }
}

impl Link {
    /// A connection whose state is known: tables are there, changes are listened for. A question takes it and gives it back when all
    /// went well, so that one that broke off half-way leaves none.
    async fn client(self: &Arc<Self>, held: &mut Option<Client>) -> Result<Client, StoreError> {
        if let Some(client) = held.take().filter(|client| !client.is_closed()) {
            return Ok(client);
        }
        let connected = self.config.connect(self.tls.clone()).await;
        let (mut client, mut connection) = connected.map_err(failed)?;
        let link = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut next = |cx: &mut Context<'_>| connection.poll_message(cx);
            while let Some(Ok(message)) = poll_fn(&mut next).await {
                if let (AsyncMessage::Notification(_), Some(link)) = (message, link.upgrade()) {
                    link.changes.heard();
                }
            }
            // Whoever waits looks, and finds that nobody answers.
            link.upgrade().iter().for_each(|link| link.changes.heard());
        });
        prepare(&mut client).await?;
        client
            .batch_execute("LISTEN agentwall_identity")
            .await
            .map_err(failed)?;
        Ok(client)
    }

    async fn load(self: Arc<Self>) -> Result<Contents, StoreError> {
        let mut held = self.client.lock().await;
        let mut client = self.client(&mut held).await?;
        let of = snapshot(&mut client).await?;
        let gateway = &self.gateway;
        let text = "SELECT record FROM agentwall_hosts WHERE gateway = $1";
        let rows = of.query(text, &[gateway]).await.map_err(failed)?;
        let hosts = rows.iter().map(|row| read(row.get(0)));
        let hosts = hosts.collect::<Result<Vec<Host>, _>>()?;
        let text = "SELECT record, used_at FROM agentwall_agents WHERE gateway = $1";
        let rows = of.query(text, &[gateway]).await.map_err(failed)?;
        let agents = rows.iter().map(|row| {
            let mut agent: Agent = read(row.get(0))?;
            agent.used_at = agent.used_at.max(row.get(1));
            Ok(agent)
        });
        let agents = agents.collect::<Result<Vec<Agent>, StoreError>>()?;
        let text = "SELECT last_event FROM agentwall_gateways WHERE gateway = $1";
        let row = of.query_opt(text, &[gateway]).await.map_err(failed)?;
        let last_event = row.map_or(0, |row| row.get::<_, i64>(0).unsigned_abs());
        of.commit().await.map_err(failed)?;
        *held = Some(client);
        Ok(Contents {
            hosts,
            agents,
            last_event,
        })
    }

    async fn since(self: Arc<Self>, after: u64) -> Result<Change, StoreError> {
        let mut held = self.client.lock().await;
        let mut client = self.client(&mut held).await?;
        let of = snapshot(&mut client).await?;
        let gateway = &self.gateway;
        let text = "SELECT last_event FROM agentwall_gateways WHERE gateway = $1";
        let row = of.query_opt(text, &[gateway]).await.map_err(failed)?;
        let last = row.map_or(0, |row| row.get::<_, i64>(0).unsigned_abs());
        if last < after {
            return Err(StoreError::Failed(format!(
                "PostgreSQL: the database has gone back to change {last}, and {after} was there; restart all instances"
            )));
        }
        let text = "SELECT record FROM agentwall_events WHERE gateway = $1 AND number > $2 ORDER BY number";
        let rows = of
            .query(text, &[gateway, &signed(after)?])
            .await
            .map_err(failed)?;
        let events = rows.iter().map(|row| read(row.get(0)));
        let events = events.collect::<Result<Vec<Event>, _>>()?;
        let mut change = Change::default();
        if !events.is_empty() {
            let (hosts, agents) = Change::named(&events);
            let hosts: Vec<&str> = hosts.iter().map(|id| id.as_str()).collect();
            let agents: Vec<&str> = agents.iter().map(|id| id.as_str()).collect();
            let text = "SELECT record FROM agentwall_hosts WHERE gateway = $1 AND id = ANY($2)";
            let rows = of.query(text, &[gateway, &hosts]).await.map_err(failed)?;
            let found = rows.iter().map(|row| read(row.get(0)));
            change.hosts = found.collect::<Result<_, _>>()?;
            let text = "SELECT record FROM agentwall_agents WHERE gateway = $1 AND id = ANY($2)";
            let rows = of.query(text, &[gateway, &agents]).await.map_err(failed)?;
            let found = rows.iter().map(|row| read(row.get(0)));
            change.agents = found.collect::<Result<_, _>>()?;
            change.events = events;
        }
        of.commit().await.map_err(failed)?;
        *held = Some(client);
        Ok(change)
    }

    async fn commit(self: Arc<Self>, change: Change) -> Result<(), StoreError> {
        let mut held = self.client.lock().await;
        let mut client = self.client(&mut held).await?;
        let gateway = &self.gateway;
        let of = client.transaction().await.map_err(failed)?;
        of.batch_execute("SET LOCAL synchronous_commit = on")
            .await
            .map_err(failed)?;
        let text = "INSERT INTO agentwall_gateways VALUES ($1, 0) ON CONFLICT DO NOTHING";
        of.execute(text, &[gateway]).await.map_err(failed)?;
        let text = "SELECT last_event FROM agentwall_gateways WHERE gateway = $1 FOR UPDATE";
        let row = of.query_one(text, &[gateway]).await.map_err(failed)?;
        let next = row.get::<_, i64>(0).unsigned_abs() + 1;
        if let Some(first) = change.events.first()
            && first.number != next
        {
            of.rollback().await.map_err(failed)?;
            *held = Some(client);
            return Err(StoreError::Conflict {
                expected: first.number,
                found: next,
            });
        }
        let text = "INSERT INTO agentwall_hosts VALUES ($1, $2, $3) ON CONFLICT (gateway, id) DO UPDATE SET record = $3";
        let put = of.prepare(text).await.map_err(failed)?;
        for host in &change.hosts {
            let row: [&(dyn ToSql + Sync); 3] = [gateway, &host.id.as_str(), &write(host)?];
            of.execute(&put, &row).await.map_err(failed)?;
        }
        let text = "INSERT INTO agentwall_agents VALUES ($1, $2, $3, $4, $5) ON CONFLICT (gateway, id) DO UPDATE \
                    SET record = $4, used_at = greatest(agentwall_agents.used_at, $5)";
        let put = of.prepare(text).await.map_err(failed)?;
        for agent in &change.agents {
            let (id, host) = (agent.id.as_str(), agent.host.as_str());
            let (record, used_at) = (write(agent)?, agent.used_at);
            let row: [&(dyn ToSql + Sync); 5] = [gateway, &id, &host, &record, &used_at];
            of.execute(&put, &row).await.map_err(failed)?;
        }
        let text = "INSERT INTO agentwall_events VALUES ($1, $2, $3)";
        let put = of.prepare(text).await.map_err(failed)?;
        for event in &change.events {
            let (number, record) = (signed(event.number)?, write(event)?);
            of.execute(&put, &[gateway, &number, &record])
                .await
                .map_err(failed)?;
        }
        let last = signed(next - 1 + change.events.len() as u64)?;
        let text = "UPDATE agentwall_gateways SET last_event = $2 WHERE gateway = $1";
        of.execute(text, &[gateway, &last]).await.map_err(failed)?;
        of.batch_execute("NOTIFY agentwall_identity")
            .await
            .map_err(failed)?;
        of.commit().await.map_err(failed)?;
        *held = Some(client);
        Ok(())
    }

    async fn used_since(self: Arc<Self>, from: i64) -> Result<Vec<(AgentId, i64)>, StoreError> {
        let mut held = self.client.lock().await;
        let client = self.client(&mut held).await?;
        let text = "SELECT id, used_at FROM agentwall_agents WHERE gateway = $1 AND used_at >= $2";
        let rows = client.query(text, &[&self.gateway, &from]).await;
        let rows = rows.map_err(failed)?;
        *held = Some(client);
        // Another version may know other ids; what is none here is nobody here.
        let used = rows.iter().filter_map(|row| {
            let id: &str = row.get(0);
            Some((id.parse().ok()?, row.get(1)))
        });
        Ok(used.collect())
    }

    async fn note_use(self: Arc<Self>, used: Vec<(AgentId, i64)>) -> Result<(), StoreError> {
        let mut held = self.client.lock().await;
        let client = self.client(&mut held).await?;
        let (ids, times): (Vec<&str>, Vec<i64>) =
            used.iter().map(|(id, at)| (id.as_str(), *at)).unzip();
        let text = "UPDATE agentwall_agents SET used_at = greatest(used_at, noted.at)
                    FROM unnest($2::text[], $3::bigint[]) AS noted(id, at)
                    WHERE gateway = $1 AND agentwall_agents.id = noted.id";
        let row: [&(dyn ToSql + Sync); 3] = [&self.gateway, &ids, &times];
        client.execute(text, &row).await.map_err(failed)?;
        *held = Some(client);
        Ok(())
    }
}

/// All questions of it are answered as of one moment.
async fn snapshot(client: &mut Client) -> Result<Transaction<'_>, StoreError> {
    let begun = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start();
    begun.await.map_err(failed)
}

/// Makes the tables, once, and refuses those of another version.
async fn prepare(client: &mut Client) -> Result<(), StoreError> {
    let of = client.transaction().await.map_err(failed)?;
    let lock = of.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]);
    lock.await.map_err(failed)?;
    let there = of.query_one("SELECT to_regclass('agentwall_version') IS NOT NULL", &[]);
    if !there.await.map_err(failed)?.get::<_, bool>(0) {
        of.batch_execute(TABLES).await.map_err(failed)?;
    }
    let row = of.query_one("SELECT version FROM agentwall_version", &[]);
    match row.await.map_err(failed)?.get::<_, i32>(0) {
        VERSION => of.commit().await.map_err(failed),
        other => Err(StoreError::Failed(format!(
            "the tables are of version {other}, and this program knows {VERSION}"
        ))),
    }
}

/// Whether an address is this host's own: what is sent there, nobody on a network reads.
fn is_here(address: &Address) -> bool {
    match address {
        Address::Unix(_) => true,
        Address::Tcp(name) => {
            name == "localhost"
                || name
                    .parse()
                    .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }
    }
}

fn gone() -> StoreError {
    StoreError::Failed("the thread that asks the database has ended".to_owned())
}

/// What went wrong, with what lies beneath it. Texts of the server name tables and values of ours, never the password.
fn failed(error: impl std::error::Error) -> StoreError {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    StoreError::Failed(format!("PostgreSQL: {text}"))
}
