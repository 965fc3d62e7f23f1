//! The never-cover set: what a proposal must not grant, whatever was observed.
//!
//! Written as the rules of a policy, so that the patterns are read, expanded and spelled like any
//! other; nothing decides with it. An entry of the first tier is not proposed in any form, not even for
//! the object that was seen. One of the second tier may be proposed by its own name if it was seen, and
//! no wider pattern may cover it. `dir{,/**}` is the name itself, whatever has it, and all below: a link by
//! the name of a folder would be a way around.

/// How an entry is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Not proposed in any form.
    Never,
    /// Only by its own name.
    Literal,
}

/// One entry of the set.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its name in reports.
    pub id: &'static str,
    pub tier: Tier,
    /// What must not be done,
    pub actions: &'static [&'static str],
    /// to what.
    pub resources: &'static [&'static str],
}

const CHANGES: &[&str] = &[
    "file.write",
    "file.create",
    "file.delete",
    "file.rename",
    "file.chmod",
];

/// The set.
pub(crate) const NEVER: &[Entry] = &[
    Entry {
        id: "secrets",
        tier: Tier::Never,
        actions: &["file.*", "process.*", "ipc.connect", "device.open"],
        resources: &["label:secret"],
    },
    Entry {
        id: "process-memory",
        tier: Tier::Never,
        actions: &["file.*"],
        resources: &["/proc/**/{environ,mem,auxv}"],
    },
    Entry {
        id: "metadata-service",
        tier: Tier::Never,
        actions: &["net.*"],
        resources: &["cidr:metadata"],
    },
    Entry {
        id: "the-wall",
        tier: Tier::Never,
        actions: &["file.*", "process.*"],
        resources: &[
            "${state}{,/**}",
            "~/.config/agentwall{,/**}",
            "~/.agentwall-layers{,/**}",
            "/etc/agentwall{,/**}",
            "/{var/tmp,tmp,dev/shm}/agentwall-[0-9]*{,/**}",
        ],
    },
    Entry {
        id: "the-wall-sockets",
        tier: Tier::Never,
        actions: &["ipc.connect"],
        resources: &["unix:${state}{,/**}"],
    },
    Entry {
        id: "start-up-files",
        tier: Tier::Never,
        actions: CHANGES,
        resources: &[
            "~/.{bashrc,bash_profile,bash_login,bash_logout,bash_aliases,profile}",
            "~/.{zshrc,zshenv,zprofile,zlogin,zlogout,kshrc,cshrc,tcshrc,login,logout}",
            "~/.{inputrc,xprofile,xinitrc,xsession,xsessionrc,pam_environment}",
            "~/.{vimrc,gvimrc,exrc,emacs,gdbinit,lldbinit,gitconfig,hgrc,wgetrc,curlrc}",
            "~/.{vim,emacs.d,bash_completion.d,oh-my-zsh}{,/**}",
            "~/.config/{fish,zsh,git,nvim,autostart,systemd,environment.d,pip,nushell}{,/**}",
            "~/.local/share/{applications,systemd,dbus-1,bash-completion}{,/**}",
            "~/.cargo/{config,config.toml,env}",
            "~/{bin,.local/bin,.cargo/bin,go/bin,.npm-global/bin}{,/**}",
            "/{etc,usr,bin,sbin,lib,lib64,boot,opt,sys}{,/**}",
            "/{var/spool,var/lib,run/systemd,proc/sys}{,/**}",
        ],
    },
    Entry {
        id: "hooks",
        tier: Tier::Never,
        actions: CHANGES,
        resources: &["**/{.git/hooks,.git/modules/**/hooks,.githooks,.husky,.hg/hgrc}{,/**}"],
    },
    Entry {
        id: "agents",
        tier: Tier::Never,
        actions: &["file.*"],
        resources: &[
            "~/.{claude,codex,gemini,cursor,aider,continue,windsurf,qwen}{,/**}",
            "~/.claude.json",
            "~/.config/{claude,codex,gemini,goose,opencode,github-copilot}{,/**}",
        ],
    },
    Entry {
        id: "agents-in-projects",
        tier: Tier::Never,
        actions: CHANGES,
        resources: &[
            "**/.{claude,codex,gemini,cursor}{,/**}",
            "**/{.mcp.json,CLAUDE.md,AGENTS.md,GEMINI.md,agentwall.yaml,agentwall.yml}",
        ],
    },
    Entry {
        id: "run-by-the-host",
        tier: Tier::Literal,
        actions: CHANGES,
        resources: &[
            "**/.git/{config,config.worktree,info/**}",
            "**/{.gitattributes,.gitmodules,.envrc,.env,.pre-commit-config.yaml}",
            "**/{.github/workflows,.github/actions,.circleci,.vscode,.idea,.devcontainer}{,/**}",
            "**/{.gitlab-ci.yml,Jenkinsfile}",
        ],
    },
    Entry {
        id: "ways-out",
        tier: Tier::Literal,
        actions: &["process.exec"],
        resources: &[
            "**/{sudo,su,doas,pkexec,ssh,scp,sftp,nc,ncat,socat,curl,wget,mount,umount}",
            "**/{nsenter,unshare,gdb,strace,crontab,at,systemctl,docker,podman,kubectl}",
        ],
    },
];

/// The set as a policy file.
pub(crate) fn as_policy() -> String {
    let list = |items: &[&str]| {
        let quoted: Vec<String> = items.iter().map(|i| format!("{i:?}")).collect();
        format!("[{}]", quoted.join(", "))
    };
    let mut text = String::from("agentwall: 1\nrules:\n");
    for entry in NEVER {
        text.push_str(&format!(
            "  - {{id: {}, action: {}, resource: {}, effect: deny}}\n",
            entry.id,
            list(entry.actions),
            list(entry.resources)
        ));
    }
    text
}
