/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Programs that the configuration means: put under a policy before their first instruction. The entries are a
 * table of their own (view SELECTOR), compiled as policies are and asked by the same walk about
 * "/USER/path/of/program"; what it refuses is meant, and the rank names the entry. The policy itself stands ready
 * in a view (`prepared`), by entry alone or by entry, user and working folder, since ${home} and
 * ${workspace} depend on those. Where none stands ready the start is refused and told, and user space makes one.
 *
 * Only tasks that nobody governs come here, and only when they start a program or become another user for good.
 */
#ifndef AGENTWALL_MEANT_H
#define AGENTWALL_MEANT_H

#include "judge.h"

#define SELECTOR (VIEWS - 2) /* its table names entries and is no policy */
#define STARTED_HERE (1ull << 62) /* sessions from here on have their numbers from these programs */
#define ANYBODY NONE
#define FOLDER_ROOM 256
#define USER_ROOM 12 /* '/' and ten digits */

/* For which starts a policy stands ready. */
struct start {
	__u64 generation; /* of the selector, whose rank this is */
	__u32 rank;
	__u32 user; /* the real one; ANYBODY, and then without a folder: for all */
	__u8 folder[FOLDER_ROOM]; /* where the process works, filled up with zeros */
};

/* The view. 0: there is none yet, and the start goes on without (an entry that refuses nothing). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct start);
	__type(value, __u32);
} prepared SEC(".maps");

/* The number of the next session that begins here. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} started SEC(".maps");

/* Memory for one such decision. It is not in `tasks`, whose entries are the governed ones, and goes with the decision. */
struct selecting {
	struct task task;
	struct start start;
};
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct selecting);
} selecting SEC(".maps");

/* Puts the user before the name of the program, which begins at `name`. */
__attribute__((noinline)) int with_user(struct work *w, __u32 name, __u32 user)
{
	__u32 pos = name;

	if (!w)
		return 0;
	for (int i = 0; i < 10; i++) {
		pos -= 1;
		w->text[pos & TEXT_MASK] = '0' + user % 10;
		user /= 10;
		if (!user)
			break;
	}
	pos -= 1;
	w->text[pos & TEXT_MASK] = '/';
	w->question.start = pos;
	w->question.len = TEXT_ROOM - pos;
	return 0;
}

/* Whether an entry means this user with this program: then the answer has its rank. */
static __always_inline bool is_meant(struct task *t, __u32 name, __u32 user)
{
	begin(t);
	t->work.question.verb = VERB_EXEC;
	t->work.question.has_text = 1;
	with_user(&t->work, name, user);
	ask_table(t, 0);
	/* No generation: the table was taken away meanwhile, and nothing is meant any more. */
	return t->event.generation && t->answer.effect != EFFECT_ALLOW;
}

/* The view for this start, NULL: none stands ready. The text is then that of the working folder. */
static __always_inline __u32 *prepared_for(struct selecting *s, struct task_struct *me, __u32 user)
{
	struct work *w = &s->task.work;
	__u32 *view, len;
	int found;

	__builtin_memset(&s->start, 0, sizeof(s->start));
	s->start.generation = s->task.event.generation;
	s->start.rank = s->task.answer.rank;
	s->start.user = user;
	found = name_of(&s->task, (__u64)BPF_CORE_READ(me, fs, pwd.mnt), (__u64)BPF_CORE_READ(me, fs, pwd.dentry));
	len = w->question.len;
	w->question.has_text = (found == NAMED || found == NAMED_INSIDE) && len < FOLDER_ROOM;
	if (w->question.has_text) {
		bpf_probe_read_kernel(s->start.folder, len & (FOLDER_ROOM - 1),
				      &w->text[w->question.start & TEXT_MASK]);
		view = bpf_map_lookup_elem(&prepared, &s->start);
		if (view)
			return view;
	}
	s->start.user = ANYBODY;
	__builtin_memset(s->start.folder, 0, sizeof(s->start.folder));
	return bpf_map_lookup_elem(&prepared, &s->start);
}

/* What is told: the program of a session that begins, or the folder of a start for which nothing stands ready. */
static __always_inline void tell_start(struct task *t, __u32 effect, __u32 why, __u32 user)
{
	t->answer.effect = effect;
	t->answer.why = why;
	t->answer.verb = VERB_EXEC;
	t->answer.dentry = 0;
	t->answer.marks = 0;
	t->event.audit = 0;
	/* The user that it will be: it may not be that one yet. */
	t->identity.ino = user;
	t->answer.identity = t->identity;
	tell(t);
}

static __always_inline int decide_start(struct selecting *s, struct task_struct *me, struct file *program,
					__u32 user, __u32 as, bool may_refuse)
{
	__u64 mnt = (__u64)BPF_CORE_READ(program, f_path.mnt), dentry = (__u64)BPF_CORE_READ(program, f_path.dentry);
	__u32 zero = 0, *view, name;
	struct task *t = &s->task;
	__u64 *number;
	int found;

	t->view = SELECTOR;
	t->session = NO_SESSION;
	found = name_of(t, mnt, dentry);
	name = t->work.question.start;
	if ((found != NAMED && found != NAMED_INSIDE) || name <= USER_ROOM || name > TEXT_ROOM) {
		/* Without a name only entries for users mean it. */
		name = TEXT_ROOM - 2;
		t->work.text[TEXT_ROOM - 2] = '/';
		t->work.text[TEXT_ROOM - 1] = '-';
	}
	if (!is_meant(t, name, user) && (as == user || !is_meant(t, name, as)))
		return 0;
	view = t->answer.why == WHY_RULE ? prepared_for(s, me, user) : NULL;
	if (!view || !*view) {
		bool refused = !view && may_refuse;

		t->view = 0;
		tell_start(t, refused ? EFFECT_DENY : EFFECT_ALLOW, WHY_UNPREPARED, user);
		if (!refused)
			return 0;
		count(COUNT_UNDECIDED);
		count(COUNT_REFUSED);
		return -EACCES;
	}
	number = bpf_map_lookup_elem(&started, &zero);
	if (!number)
		return -EACCES;
	t->view = *view;
	t->session = STARTED_HERE + __sync_fetch_and_add(number, 1);
	if (put_under(me, t->session, t->view, 0))
		return may_refuse ? -ENOMEM : 0;
	found = name_of(t, mnt, dentry);
	t->work.question.has_text = found == NAMED || found == NAMED_INSIDE;
	tell_start(t, EFFECT_ALLOW, WHY_MEANT, user);
	return 0;
}

/*
 * A task that nobody governs is about to run `program` as `user` (and with the rights of `as`). The errno, negative,
 * or 0. Where the operation must not fail (`may_refuse`) what no policy stands ready for goes on, and is told.
 */
static __always_inline int select_start(struct file *program, __u32 user, __u32 as, bool may_refuse)
{
	struct task_struct *me = (struct task_struct *)bpf_get_current_task_btf();
	__u32 selector = table_place(SELECTOR);
	struct selecting *s;
	struct task *t;
	int verdict;

	/* No entries: one look is all. */
	if (!bpf_map_lookup_elem(&tables, &selector))
		return 0;
	t = bpf_task_storage_get(&tasks, me, NULL, 0);
	if (t && (t->view || t->flags))
		return 0;
	s = bpf_task_storage_get(&selecting, me, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!s) {
		count(COUNT_NO_MEMORY);
		return may_refuse ? -ENOMEM : 0;
	}
	s->task.place = selector;
	verdict = decide_start(s, me, program, user, as, may_refuse);
	bpf_task_storage_delete(&selecting, me);
	return verdict;
}

#endif
