/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * From a hook to an answer: begin(), one consider_*() for each thing the operation does, conclude(). The
 * strictest answer counts. Every hook goes this way and no other; the table is asked in one place
 * (ask_table()), events are made in one place (conclude()).
 *
 * Whatever cannot be decided is refused. What the kernel cannot do (ask, isolate, limit a rate) is refused
 * and reported as what it is; a person's answer comes back as a grant.
 */
#ifndef AGENTWALL_JUDGE_H
#define AGENTWALL_JUDGE_H

#include "path.h"
#include "table.h"

#define EPERM 1
#define ENOMEM 12
#define ENOPARAM 519
#define EACCES 13
#define EXDEV 18

#define S_IFMT 0170000
#define S_IFDIR 0040000
#define S_IFCHR 0020000
#define S_IFBLK 0060000
#define S_IFREG 0100000
#define S_ISUID 04000
#define S_ISGID 02000

#define PROC_SUPER_MAGIC 0x9fa0

/* How an answer is asked for. */
#define SOFT_DEFAULT 1u /* what the wall itself would give: only a rule refuses it, not the default */
#define CODE 2u /* a nameless object is refused */
#define ONE_OF_MANY 8u /* one of several names: a default that refuses is kept back */
#define SOCKET 4u /* the object is the file of a Unix socket that is connected to */

#define NO_SESSION 0

/* Where the table is that counts for a view now. No such view: a place where there is no table. */
static __always_inline __u32 table_place(__u32 view)
{
	__u32 *which = bpf_map_lookup_elem(&chosen, &view);

	return which ? 2 * view + (*which & 1) : 0;
}

static __always_inline struct task *governed(void)
{
	struct task *t = bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), NULL, 0);

	if (!t || !t->view)
		return NULL;
	t->place = table_place(t->view);
	return t;
}

/*
 * A pointer whose type the verifier knows, as a number that may be handed to a global function: written to
 * memory and read back, it has no type any more.
 */
static __always_inline __u64 as_number(struct task *t, const void *pointer)
{
	volatile __u64 *place = &t->pointer;

	*place = (__u64)pointer;
	return *place;
}

/* The monitor's programs hold many operations, and their stacks are as short as the hooks'. */
#ifdef MONITOR
static __attribute__((noinline)) void begin(struct task *t)
#else
static __always_inline void begin(struct task *t)
#endif
{
	t->answer.effect = NONE;
	t->answer.verb = 0;
	t->answer.why = WHY_RULE;
	t->answer.never = 0;
	t->answer.marks = 0;
	t->answer.cacheable = 1;
	t->answer.granted = 0;
	t->answer.directory = 0;
	t->answer.dentry = 0;
	t->dentry = 0;
	t->event.generation = 0;
	__builtin_memset(&t->identity, 0, sizeof(t->identity));
	t->work.question.has_text = 0;
	t->work.question.len = 0;
	t->work.question.start = TEXT_ROOM;
	t->work.question.address_len = 0;
	t->work.question.port = 0;
	t->work.question.protocol = 0;
	t->work.question.kind = KIND_PATH;
	t->work.question.directory = 0;
}

/* Keeps the stricter of two answers; the first of equals. */
static __always_inline void keep(struct task *t, __u32 effect, __u32 verb, __u32 why)
{
	if (t->answer.effect != NONE && effect <= t->answer.effect)
		return;
	t->answer.effect = effect;
	t->answer.verb = verb;
	t->answer.why = why;
	t->answer.layer = t->work.verdict.layer;
	t->answer.rank = t->work.verdict.rank;
	t->answer.directory = t->work.question.directory;
	if (effect == EFFECT_ALLOW)
		return;
	t->answer.mount = t->mount;
	t->answer.dentry = t->dentry;
	t->answer.identity = t->identity;
}

/* Keeps a refusal that no table gave. */
static __always_inline void refuse(struct task *t, __u32 verb, __u32 why)
{
	t->work.verdict.layer = 0;
	t->work.verdict.rank = NONE;
	keep(t, EFFECT_DENY, verb, why);
	if (t->answer.why != why && t->answer.effect == EFFECT_DENY && t->answer.rank == NONE)
		t->answer.why = why;
}

/* Whether a person said yes to just this. */
__attribute__((noinline)) int is_granted(struct task *t, __u32 verb)
{
	struct grant_key key = {}; /* a key is looked up from the stack */
	struct grant *grant;

	if (!t)
		return 0;
	key.session = t->session;
	key.identity = t->identity;
	key.verb = verb;
	grant = bpf_map_lookup_elem(&grants, &key);
	if (!grant || (grant->until && grant->until < bpf_ktime_get_boot_ns()))
		return 0;
	t->grant = key;
	return 1;
}

/* Of two that take the last use of a grant at once, both may have been let through: uses are bounds, not locks. */
static __always_inline void use_grant(struct task *t)
{
	struct grant_key key = t->grant;
	struct grant *grant = bpf_map_lookup_elem(&grants, &key);

	count(COUNT_GRANTED);
	if (grant && grant->uses && (__s64)__sync_fetch_and_add(&grant->uses, -1) <= 1)
		bpf_map_delete_elem(&grants, &key);
}

/* The table of the task's view, as it was when the operation began, or NULL. */
static __always_inline struct table *table_of(struct task *t)
{
	__u32 place = t->place, zero = 0;
	void *inner = bpf_map_lookup_elem(&tables, &place);

	return inner ? bpf_map_lookup_elem(inner, &zero) : NULL;
}

/* The generation of the task's table; 0: none. */
static __always_inline __u64 generation_of(struct task *t)
{
	struct table *table = table_of(t);

	if (!table)
		return 0;
	return (__u64)table->words[TABLE_GENERATION + 1] << 32 | table->words[TABLE_GENERATION];
}

/* Whether nothing is to be refused. Without a table everything is; the monitor never refuses anything. */
static __always_inline __u32 is_audit(struct task *t)
{
#ifdef MONITOR
	return 1;
#else
	struct table *table = table_of(t);

	return table ? table->words[TABLE_FLAGS] & TABLE_AUDIT : 0;
#endif
}

/* The only place where a policy is asked. The question is in t->work. */
__attribute__((noinline)) int ask_table(struct task *t, __u32 how)
{
	struct table *table;
	__u32 verb;

	if (!t)
		return 0;
	verb = t->work.question.verb;
	table = table_of(t);
	if (!table) {
		t->event.generation = 0;
		refuse(t, verb, WHY_NO_TABLE);
		return 0;
	}
	t->event.generation = (__u64)table->words[TABLE_GENERATION + 1] << 32 | table->words[TABLE_GENERATION];
	decide(table, &t->work);
	count(COUNT_DECISIONS);
	if (t->work.verdict.effect == NONE) {
		refuse(t, verb, t->work.verdict.full ? WHY_FULL : WHY_NO_TABLE);
		return 0;
	}
	t->answer.marks += t->work.verdict.marks;
	if (t->work.verdict.effect != EFFECT_ALLOW && t->work.verdict.rank == NONE && how & SOFT_DEFAULT) {
		t->work.verdict.effect = EFFECT_ALLOW;
		keep(t, EFFECT_ALLOW, verb, WHY_OWN);
		return 0;
	}
	if (t->work.verdict.effect != EFFECT_ALLOW && t->work.verdict.rank == NONE && how & ONE_OF_MANY) {
		t->held_back = t->work.verdict.effect;
		return 0;
	}
	if (t->work.verdict.effect == EFFECT_ASK && is_granted(t, verb)) {
		t->answer.granted = 1;
		t->answer.cacheable = 0;
		keep(t, EFFECT_ALLOW, verb, WHY_GRANT);
		return 0;
	}
	keep(t, t->work.verdict.effect, verb, WHY_RULE);
	return 0;
}

/*
 * Looks at an object by identity: what the answer is about, whether it is a folder, and what was noted of it.
 * A function of its own, so that its stack is not part of the decision's.
 */
__attribute__((noinline)) int look(struct task *t, __u64 dentry)
{
	struct dentry *d = (struct dentry *)dentry;
	struct object_key key = {};
	struct object *object;
	struct inode *inode;

	if (!t)
		return 0;
	inode = BPF_CORE_READ(d, d_inode);
	key.dev = BPF_CORE_READ(d, d_sb, s_dev);
	t->identity.dev = key.dev;
	t->noted = 0;
	t->alias = 0;
	if (!inode) {
		t->identity.ino = BPF_CORE_READ(d, d_parent, d_inode, i_ino);
		t->identity.name = (__u64)BPF_CORE_READ(d, d_name.len) << 32 | BPF_CORE_READ(d, d_name.hash);
		t->work.question.directory = 0;
		return 0;
	}
	key.ino = BPF_CORE_READ(inode, i_ino);
	t->identity.ino = key.ino;
	t->identity.name = 0;
	t->work.question.directory = (BPF_CORE_READ(inode, i_mode) & S_IFMT) == S_IFDIR;
	object = bpf_map_lookup_elem(&objects, &key);
	if (object) {
		t->noted = object->flags;
		t->alias = (__u64)object;
	}
	return 0;
}

/* Puts the other name of the object that look() saw into the question. 0: there is none that fits. */
__attribute__((noinline)) int alias_of(struct task *t)
{
	struct object *object;
	__u32 len;

	if (!t)
		return 0;
	object = (struct object *)t->alias;
	bpf_probe_read_kernel(&len, sizeof(len), &object->len);
	if (len == 0 || len > ALIAS_ROOM)
		return 0;
	bpf_probe_read_kernel(&t->work.text[TEXT_ROOM - ALIAS_ROOM], len & (2 * ALIAS_ROOM - 1), object->name);
	t->work.question.start = TEXT_ROOM - ALIAS_ROOM;
	t->work.question.len = len;
	return 1;
}

/* Whether the table's names are only those that the process sees. */
static __always_inline bool names_are_inside(struct task *t)
{
	struct table *table = table_of(t);

	return table && table->words[TABLE_FLAGS] & TABLE_INSIDE;
}

/*
 * What the rootless wall makes itself: the root folder, and the own part of /proc. Refused by a rule that
 * says so, not by a default (wall_made in crates/wall/src/broker.rs).
 */
static __always_inline __u32 softness(struct work *w, __u32 verb, __u64 dentry)
{
	struct super_block *sb;

	if (w->question.len == 1)
		return SOFT_DEFAULT;
	sb = BPF_CORE_READ((struct dentry *)dentry, d_sb);
	if (BPF_CORE_READ(sb, s_magic) == PROC_SUPER_MAGIC) {
		/* Reading any of it; changing only what belongs to a process, which the kernel guards. */
		__u8 c = w->text[(w->question.start + 6) & TEXT_MASK];

		if (verb == VERB_READ || (w->question.len > 6 && c >= '0' && c <= '9'))
			return SOFT_DEFAULT;
	}
	return 0;
}

/*
 * One thing that an operation does to an object of the file system: verb, and the object by mount and dentry.
 *
 * It is asked under the name by which it is reached, and under the name that the host gives it, if that is
 * another (a bind mount, another namespace). One of the two is asked in full; by the other only a rule refuses, not
 * the default: an alias opens nothing that a rule denies, and needs no rule of its own.
 *
 *   reached by                  in full      rules only
 *   a mount of the host         that name    the host's first mount of it
 *   another namespace           the host's   that name   (the other way round for a policy about inside names)
 *   a detached mount            the host's
 *   the kernel itself (overlay)              the host's
 */
__attribute__((noinline)) int consider(struct task *t, __u32 verb, __u64 vfsmount, __u64 dentry, __u32 how)
{
	__u64 other = 0;
	int found;

	if (!t)
		return 0;
	t->work.question.kind = how & SOCKET ? KIND_SOCKET : KIND_PATH;
	t->work.question.verb = verb;
	t->work.question.has_text = 1;
	t->mount = vfsmount;
	t->dentry = dentry;
	look(t, dentry);
	if (t->noted)
		t->answer.cacheable = 0;
	found = name_of(t, vfsmount, dentry);
	if (found == TOO_LONG || found == TOO_DEEP)
		goto unnamed;
	if (!names_are_inside(t))
		other = host_mount(dentry, 0);
	if (found == NAMED || found == NAMED_INSIDE) {
		bool is_alias = found == NAMED_INSIDE && other;

		ask_table(t, how | softness(&t->work, verb, dentry) | (is_alias ? SOFT_DEFAULT : 0));
	}
	if (other && other != vfsmount) {
		__u32 soft = found == NAMED || found == INTERNAL ? SOFT_DEFAULT : 0;
		int again = name_of(t, other, dentry);

		t->mount = other;
		if (again == TOO_LONG || again == TOO_DEEP) {
			found = again;
			goto unnamed;
		}
		if (again == NAMED)
			ask_table(t, how | softness(&t->work, verb, dentry) | soft);
	} else if (found == DETACHED) {
		/* Files of somebody, by no name that a rule could be about. */
		t->work.question.has_text = 0;
		refuse(t, verb, WHY_NAMELESS);
		return 0;
	} else if (found == INTERNAL) {
		goto nameless;
	}
	if (t->noted & OBJECT_WALL)
		refuse(t, verb, WHY_WALL);
	if (t->noted & OBJECT_ALIAS) {
		if (alias_of(t))
			ask_table(t, how | SOFT_DEFAULT);
		else
			refuse(t, verb, WHY_TOO_LONG);
	}
	return 0;

nameless:
	/* Nobody's file: memory that the process made. It is not a program. */
	t->work.question.has_text = 0;
	t->answer.cacheable = 0;
	if (how & CODE)
		refuse(t, verb, WHY_NAMELESS);
	else
		keep(t, EFFECT_ALLOW, verb, WHY_OWN);
	return 0;

unnamed:
	t->work.question.has_text = 0;
	refuse(t, verb, found == TOO_LONG ? WHY_TOO_LONG : WHY_TOO_DEEP);
	return 0;
}

#define MAX_NAMES 4

/*
 * The same for hooks that tell no mount. The object may be reached by any of the host's mounts that show it: no rule
 * may refuse it under any of its names, and under one of them it must be permitted.
 */
__attribute__((noinline)) int consider_inode(struct task *t, __u32 verb, __u64 dentry)
{
	int found = INTERNAL;

	if (!t)
		return 0;
	t->work.question.kind = KIND_PATH;
	t->work.question.verb = verb;
	t->work.question.has_text = 1;
	t->held_back = NONE;
	t->dentry = dentry;
	look(t, dentry);
	for (__u32 i = 0; i < MAX_NAMES; i++) {
		__u64 mount = host_mount(dentry, i);

		if (!mount) {
			if (i > 0)
				break;
			/* A file system that the host does not show: named by the first of its mounts. */
			mount = first_mount(BPF_CORE_READ((struct dentry *)dentry, d_sb));
			if (!mount)
				break;
			mount += bpf_core_field_offset(struct mount, mnt);
			i = MAX_NAMES;
		}
		t->mount = mount;
		found = name_of(t, mount, dentry);
		if (found == TOO_LONG || found == TOO_DEEP) {
			t->work.question.has_text = 0;
			refuse(t, verb, found == TOO_LONG ? WHY_TOO_LONG : WHY_TOO_DEEP);
			return 0;
		}
		if (found == NAMED || found == NAMED_INSIDE)
			ask_table(t, softness(&t->work, verb, dentry) | ONE_OF_MANY);
	}
	if (t->answer.effect == NONE && t->held_back != NONE) {
		t->work.verdict.layer = 0;
		t->work.verdict.rank = NONE;
		keep(t, t->held_back, verb, WHY_RULE);
	}
	if (t->noted & OBJECT_WALL)
		refuse(t, verb, WHY_WALL);
	return 0;
}

/* Records have one of two sizes, since the verifier wants to know it. */
#define SHORT_TEXT 256
#define SEND(room)                                                                                           \
	({                                                                                                   \
		struct {                                                                                     \
			struct event head;                                                                   \
			__u8 text[room];                                                                     \
		} *record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);                                \
		if (record) {                                                                                \
			record->head = *e;                                                                   \
			bpf_probe_read_kernel(record->text, len, (void *)text);                              \
			bpf_ringbuf_submit(record, 0);                                                       \
		} else {                                                                                     \
			count(COUNT_DROPPED);                                                                \
		}                                                                                            \
	})

/* Numbers an event and says whose it is. */
static __always_inline bool sign(struct task *t)
{
	struct event *e = &t->event;
	__u64 id = bpf_get_current_pid_tgid(), *number;
	__u32 zero = 0;

	number = bpf_map_lookup_elem(&numbers, &zero);
	if (!number)
		return false;
	e->number = __sync_fetch_and_add(number, 1);
	e->time = bpf_ktime_get_boot_ns();
	e->session = t->session;
	e->view = t->view;
	e->pid = id >> 32;
	e->tid = (__u32)id;
	e->uid = (__u32)bpf_get_current_uid_gid();
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	return true;
}

/* Tells user space of the answer: one event, the text behind it. */
__attribute__((noinline)) int tell(struct task *t)
{
	struct event *e;
	__u64 text;
	__u32 len;
	bool refused;

	if (!t)
		return 0;
	e = &t->event;
	refused = t->answer.effect != EFFECT_ALLOW;
	if (refused && t->answer.dentry) {
		/* The text is that of what was asked last. */
		int found = name_of(t, t->answer.mount, t->answer.dentry);

		t->work.question.has_text = found == NAMED || found == NAMED_INSIDE;
	}
	if (!sign(t))
		return 0;
	e->verb = t->answer.verb;
	e->kind = t->work.question.kind;
	e->directory = t->answer.directory;
	e->effect = t->answer.effect;
	e->layer = t->answer.layer;
	e->rank = t->answer.rank;
	e->why = t->answer.why;
	e->never = t->answer.never;
	e->marks = t->answer.marks;
	e->identity = refused ? t->answer.identity : t->identity;
	e->address_len = t->work.question.address_len;
	e->base = 0;
	len = t->work.question.has_text ? t->work.question.len : 0;
	if (len > TEXT_ROOM || t->work.question.start > TEXT_ROOM)
		len = 0;
	e->len = len;
	text = (__u64)t->work.text + t->work.question.start;
	if (len <= SHORT_TEXT)
		SEND(SHORT_TEXT);
	else
		SEND(TEXT_ROOM);
	return 0;
}

/* The errno of the operation, negative, or 0. Refusals, marks and grants are told; plain allows are counted. */
__attribute__((noinline)) int conclude(struct task *t)
{
	__u32 index;
	__u64 *plain;

	if (!t)
		return -EACCES;
	if (t->answer.effect == NONE)
		return 0;
	if (t->answer.effect == EFFECT_ALLOW) {
		if (t->answer.granted)
			use_grant(t);
		if (t->answer.granted || t->answer.marks) {
			tell(t);
			return 0;
		}
		index = (t->view % VIEWS) * COUNTED_VERBS + t->answer.verb % COUNTED_VERBS;
		plain = bpf_map_lookup_elem(&allows, &index);
		if (plain)
			(*plain)++;
		return 0;
	}
	t->answer.cacheable = 0;
	/* Not what an earlier operation had: not everything that is refused asked a table. */
	t->event.audit = is_audit(t);
	if (t->answer.why != WHY_RULE)
		count(COUNT_UNDECIDED);
	count(COUNT_REFUSED);
	tell(t);
	if (t->event.audit)
		return 0;
	return t->answer.why == WHY_PINNED ? -EXDEV : -EACCES;
}

/* Refuses what no policy permits. */
static __always_inline int never(struct task *t, __u32 what)
{
	begin(t);
	refuse(t, NONE, WHY_NEVER);
	t->answer.never = what;
	return conclude(t) ? -EPERM : 0;
}

#endif
