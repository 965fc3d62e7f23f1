//! Verbs: what can be done to an object.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The group a verb belongs to; all verbs of a family act on resources of the same shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VerbFamily {
    /// Paths in a file system.
    File,
    /// Programs and processes; resources are paths of binaries.
    Process,
    /// Network endpoints.
    Net,
    /// Host names.
    Dns,
    /// URLs, tools, API capabilities, peers, credentials: named by text.
    Named,
    /// Unix sockets and other local endpoints.
    Ipc,
    /// Device nodes; resources are paths.
    Device,
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $variant:ident = $text:literal in $family:ident,)*) => {
        /// What is done. The textual form (`file.read`) is what `action:` globs in a policy match.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Verb { $($(#[$doc])* $variant,)* }

        impl Verb {
            /// Every verb, in the order of the documentation.
            pub const ALL: &'static [Verb] = &[$(Verb::$variant,)*];

            /// The textual form, for example `file.read`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Verb::$variant => $text,)* }
            }

            /// The family of the verb.
            pub const fn family(self) -> VerbFamily {
                match self { $(Verb::$variant => VerbFamily::$family,)* }
            }
        }

        impl FromStr for Verb {
            type Err = UnknownVerb;
            fn from_str(s: &str) -> Result<Self, UnknownVerb> {
                match s { $($text => Ok(Verb::$variant),)* _ => Err(UnknownVerb(s.to_owned())) }
            }
        }
    };
}

verbs! {
    /// Reading a file's content or listing a directory.
    FileRead = "file.read" in File,
    /// Changing the content of an existing file.
    FileWrite = "file.write" in File,
    /// Making a new file, directory, link, FIFO or socket.
    FileCreate = "file.create" in File,
    /// Removing a file or directory.
    FileDelete = "file.delete" in File,
    /// Moving a file or directory; the resource is the old name.
    FileRename = "file.rename" in File,
    /// Changing mode, owner, times or extended attributes.
    FileChmod = "file.chmod" in File,
    /// Mapping a file executable: libraries and loader tricks.
    FileExec = "file.exec" in File,
    /// Carrying a change from the copy to the original.
    FileCommit = "file.commit" in File,
    /// Starting a program; the resource is the resolved binary.
    ProcessExec = "process.exec" in Process,
    /// Sending a signal to a process.
    ProcessSignal = "process.signal" in Process,
    /// Tracing or reading the memory of a process.
    ProcessTrace = "process.trace" in Process,
    /// Opening a connection.
    NetConnect = "net.connect" in Net,
    /// Accepting connections.
    NetListen = "net.listen" in Net,
    /// Sending datagrams.
    NetSend = "net.send" in Net,
    /// Asking for the addresses of a host name.
    DnsResolve = "dns.resolve" in Dns,
    /// An HTTP request seen in clear.
    HttpRequest = "http.request" in Named,
    /// A tool call (MCP, agent hook).
    ToolCall = "tool.call" in Named,
    /// A call of an API capability.
    ApiCall = "api.call" in Named,
    /// A message to another agent.
    AgentMessage = "agent.message" in Named,
    /// Connecting to a local endpoint such as a Unix socket.
    IpcConnect = "ipc.connect" in Ipc,
    /// Opening a device node.
    DeviceOpen = "device.open" in Device,
    /// Using a credential that the wall holds.
    CredentialUse = "credential.use" in Named,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not one of [`Verb::ALL`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVerb(pub String);

impl fmt::Display for UnknownVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown action '{}'", self.0)
    }
}

impl std::error::Error for UnknownVerb {}

impl Serialize for Verb {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Verb {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_reads_back() {
        for verb in Verb::ALL {
            assert_eq!(verb.as_str().parse::<Verb>(), Ok(*verb));
        }
        assert!("file.raed".parse::<Verb>().is_err());
    }
}
