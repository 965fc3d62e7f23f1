//! `label:secret`: the built-in places where credentials and private data live.
//!
//! The list errs on the side of being long: a template denies it at a low priority number, and an
//! author who wants one of these opened says so with a lower number still. Each entry stands for the
//! path itself and everything below it. Entries are for Linux desktops and servers; what the wall
//! itself owns is protected elsewhere, under any policy.

use crate::{
    glob::{Glob, GlobKind, glob_escape},
    vars::Variables,
};

/// Below the home folder: files and folders.
const IN_HOME: &[&str] = &[
    // Keys and agents.
    ".ssh",
    ".gnupg",
    ".pki",
    ".password-store",
    ".config/op",
    ".1password",
    ".config/age",
    ".config/sops",
    ".local/share/keyrings",
    ".local/share/kwalletd",
    ".kde/share/apps/kwallet",
    ".local/share/gnome-keyring",
    ".gnome2/keyrings",
    ".vault-token",
    ".config/Bitwarden",
    ".config/Bitwarden CLI",
    ".config/keepassxc",
    ".config/1Password",
    ".lastpass",
    // Clouds and clusters.
    ".aws",
    ".azure",
    ".config/gcloud",
    ".kube",
    ".config/doctl",
    ".config/hcloud",
    ".oci",
    ".aliyun",
    ".bluemix",
    ".terraform.d/credentials.tfrc.json",
    ".terraformrc",
    ".config/helm",
    ".config/flyctl",
    ".fly",
    ".config/netlify",
    ".netlify",
    ".config/vercel",
    ".local/share/com.vercel.cli",
    ".config/heroku",
    ".config/railway",
    ".config/configstore",
    ".config/stripe",
    ".s3cfg",
    ".boto",
    ".config/rclone",
    ".mc",
    // Containers.
    ".docker/config.json",
    ".docker/contexts",
    ".config/containers/auth.json",
    ".docker/run",
    // Code forges and package registries.
    ".netrc",
    "_netrc",
    ".authinfo",
    ".authinfo.gpg",
    ".git-credentials",
    ".config/git/credentials",
    ".config/gh",
    ".config/hub",
    ".config/glab-cli",
    ".config/tea",
    ".npmrc",
    ".yarnrc.yml",
    ".pypirc",
    ".config/pypoetry/auth.toml",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".gem/credentials",
    ".composer/auth.json",
    ".config/composer/auth.json",
    ".m2/settings.xml",
    ".m2/settings-security.xml",
    ".gradle/gradle.properties",
    ".nuget/NuGet/NuGet.Config",
    ".hex/hex.config",
    ".config/huggingface",
    ".cache/huggingface/token",
    ".huggingface",
    // Databases.
    ".pgpass",
    ".my.cnf",
    ".mylogin.cnf",
    ".mongorc.js",
    ".redisclirc",
    ".dbshell",
    // Browsers and mail.
    ".mozilla",
    ".config/google-chrome",
    ".config/google-chrome-beta",
    ".config/google-chrome-unstable",
    ".config/chromium",
    ".config/BraveSoftware",
    ".config/microsoft-edge",
    ".config/opera",
    ".config/vivaldi",
    ".librewolf",
    ".waterfox",
    ".zen",
    ".thunderbird",
    ".config/evolution",
    ".local/share/evolution",
    ".mutt",
    ".muttrc",
    ".msmtprc",
    ".offlineimaprc",
    ".mbsyncrc",
    ".cache/mozilla",
    ".cache/google-chrome",
    ".cache/chromium",
    ".cache/BraveSoftware",
    ".cache/microsoft-edge",
    "snap/firefox",
    "snap/chromium",
    ".var/app/org.mozilla.firefox",
    ".var/app/com.google.Chrome",
    ".var/app/org.chromium.Chromium",
    ".var/app/com.brave.Browser",
    ".var/app/org.mozilla.Thunderbird",
    // Chat.
    ".config/Slack",
    ".config/discord",
    ".config/Signal",
    ".config/Element",
    ".local/share/TelegramDesktop",
    // Histories.
    ".bash_history",
    ".zsh_history",
    ".zhistory",
    ".histfile",
    ".local/share/fish/fish_history",
    ".sh_history",
    ".ksh_history",
    ".history",
    ".python_history",
    ".node_repl_history",
    ".psql_history",
    ".mysql_history",
    ".sqlite_history",
    ".rediscli_history",
    ".lesshst",
    ".viminfo",
    ".irb_history",
    ".config/atuin",
    ".local/share/atuin",
    ".local/share/mcfly",
    // Displays and remote desktops.
    ".Xauthority",
    ".ICEauthority",
    ".vnc",
    ".config/remmina",
    ".local/share/remmina",
    // Wallets.
    ".bitcoin",
    ".ethereum",
    ".electrum",
    ".config/solana",
    ".monero",
    // Virtual private networks.
    ".config/wireguard",
    ".config/openvpn",
    ".cert",
];

/// Outside the home folder: files and folders. No wildcards, so that an enforcement point can mask
/// each with a mount and leave the rest of `/tmp` or `/etc` at native speed.
const ELSEWHERE: &[&str] = &[
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/security/opasswd",
    "/etc/ssh/ssh_host_rsa_key",
    "/etc/ssh/ssh_host_dsa_key",
    "/etc/ssh/ssh_host_ecdsa_key",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssl/private",
    "/etc/pki/tls/private",
    "/etc/krb5.keytab",
    "/etc/wireguard",
    "/etc/openvpn",
    "/etc/ipsec.secrets",
    "/etc/ipsec.d/private",
    "/etc/NetworkManager/system-connections",
    "/etc/wpa_supplicant",
    "/etc/letsencrypt",
    "/etc/kubernetes",
    "/etc/rancher",
    "/etc/docker/key.json",
    "/etc/mysql/debian.cnf",
    "/etc/ppp/chap-secrets",
    "/etc/ppp/pap-secrets",
    "/etc/samba/private",
    "/etc/cups/ssl",
    "/etc/credstore",
    "/etc/credstore.encrypted",
    "/var/lib/kubelet",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/rancher",
    "/var/lib/etcd",
    "/var/lib/NetworkManager",
    "/var/lib/bluetooth",
    "/var/lib/sss",
    "/var/lib/samba/private",
    "/var/lib/systemd/credential.secret",
    "/var/spool/cron",
    "/var/spool/mail",
    "/var/mail",
    "/var/backups",
    "/var/log/auth.log",
    "/var/log/secure",
    "/run/secrets",
    "/run/credentials",
    // Container engines.
    "/run/docker.sock",
    "/run/docker",
    "/run/podman",
    "/run/containerd",
    "/run/crio",
    "/run/buildkit",
    "/run/libvirt",
    "/run/lxd",
    "/var/lib/lxd",
    "/var/snap/lxd",
    "/run/incus",
    // Message buses, smart cards, service control.
    "/run/dbus",
    "/run/systemd/private",
    "/run/pcscd",
    "/run/snapd.socket",
    "/run/snapd-snap.socket",
    // Kerberos tickets of the administrator and of the first ordinary users.
    "/tmp/krb5cc_0",
    "/tmp/krb5cc_1000",
    "/tmp/krb5cc_1001",
    "/tmp/krb5cc_1002",
    // The kernel's memory, keys and firmware.
    "/proc/kcore",
    "/proc/kmem",
    "/proc/kpageflags",
    "/proc/kpagecount",
    "/proc/kallsyms",
    "/proc/keys",
    "/proc/key-users",
    "/proc/sysrq-trigger",
    "/dev/mem",
    "/dev/kmem",
    "/dev/port",
    "/sys/firmware/efi/efivars",
    "/sys/kernel/debug",
    "/sys/kernel/tracing",
];

/// Sockets of agents, keyrings, message buses and container engines, as globs. They are connected
/// to, not opened, so they belong to the label for `ipc.connect` alone.
const SOCKETS: &[&str] = &[
    "/tmp/ssh-*",
    "/tmp/gpg-*",
    "/tmp/keyring-*",
    "/tmp/.gnome-keyring-*",
    "/tmp/dbus-*",
    "/tmp/.X11-unix",
    "/tmp/.ICE-unix",
    "/run/user/*/gnupg",
    "/run/user/*/keyring",
    "/run/user/*/gcr",
    "/run/user/*/ssh-agent*",
    "/run/user/*/openssh_agent",
    "/run/user/*/bus",
    "/run/user/*/dbus-*",
    "/run/user/*/systemd",
    "/run/user/*/kwallet*",
    "/run/user/*/wayland-*",
    "/run/user/*/vscode-ssh-auth*",
    "/run/user/*/docker.sock",
    "/run/user/*/docker",
    "/run/user/*/podman",
    "/run/user/*/containerd*",
    "/run/user/*/libvirt",
    "/run/user/*/pipewire-*",
    "/run/user/*/pulse",
    "/var/run/docker.sock",
    "/var/run/dbus",
];

/// The paths of the label as globs, for these variables: each stands for itself and what is below.
/// Without a home folder only the places outside it. The administrator's home folder is in the set
/// unless the agent's own home or workspace is in it.
pub fn secret_globs(variables: &Variables) -> Vec<Glob> {
    let home = variables.bytes("home");
    let in_home = home.into_iter().flat_map(|home| {
        let home = glob_escape(home);
        IN_HOME.iter().map(move |path| format!("{home}/{path}"))
    });
    let below_root =
        |path: Option<&[u8]>| path.is_some_and(|p| p == b"/root" || p.starts_with(b"/root/"));
    let root = (!below_root(home) && !below_root(variables.bytes("workspace")))
        .then(|| "/root".to_owned());
    trees(
        in_home
            .chain(ELSEWHERE.iter().map(ToString::to_string))
            .chain(root),
    )
}

/// The sockets of the label as globs; they count for `ipc.connect`, on top of [`secret_globs`].
pub fn secret_socket_globs() -> Vec<Glob> {
    trees(SOCKETS.iter().map(ToString::to_string))
}

fn trees(paths: impl Iterator<Item = String>) -> Vec<Glob> {
    // The lists above are constants without glob errors, which a test proves by counting.
    paths
        .filter_map(|path| Glob::new(&format!("{{{path},{path}/**}}"), GlobKind::Path).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_is_complete_and_exact() {
        let vars = Variables {
            home: Some("/home/u{1}".into()),
            ..Variables::default()
        };
        let globs = secret_globs(&vars);
        assert_eq!(globs.len(), IN_HOME.len() + ELSEWHERE.len() + 1);
        let sockets = secret_socket_globs();
        assert_eq!(sockets.len(), SOCKETS.len());
        let all = [globs, sockets].concat();
        let secret = |p: &str| all.iter().any(|g| g.matches(p.as_bytes(), false));
        for path in [
            "/home/u{1}/.ssh",
            "/home/u{1}/.ssh/id_ed25519",
            "/home/u{1}/.aws/credentials",
            "/home/u{1}/.cargo/credentials.toml",
            "/home/u{1}/.mozilla/firefox/x/logins.json",
            "/home/u{1}/.bash_history",
            "/etc/shadow",
            "/etc/shadow-",
            "/etc/sudoers.d/x",
            "/etc/ssh/ssh_host_ed25519_key",
            "/root/.bashrc",
            "/run/docker.sock",
            "/tmp/ssh-XXXX/agent.1",
            "/run/user/1000/bus",
            "/proc/kcore",
            "/run/user/1000/gnupg/S.gpg-agent",
        ] {
            assert!(secret(path), "{path}");
        }
        for path in [
            "/home/u{1}/.sshx",
            "/home/u{1}/.cargo/config.toml",
            "/etc/passwd",
            "/etc/ssh/ssh_host_ed25519_key.pub",
            "/home/u/.ssh/x",
            "/tmp/sshx",
            "/home/u{1}/.docker/x",
        ] {
            assert!(!secret(path), "{path}");
        }
        let root = Variables {
            home: Some("/root".into()),
            ..Variables::default()
        };
        let globs = secret_globs(&root);
        assert!(!globs.iter().any(|g| g.matches(b"/root/work", false)));
        assert!(globs.iter().any(|g| g.matches(b"/root/.ssh", false)));
    }
}
