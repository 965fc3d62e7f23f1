/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Hooks about programs: starting them, and mapping files as code. */
#ifndef AGENTWALL_PROGRAMS_H
#define AGENTWALL_PROGRAMS_H

#include "files.h"
#include "meant.h"

#define PROT_EXEC 4
#define VM_EXEC 4

/* Called once for the file itself and once more for each interpreter of a script. */
SEC("lsm/bprm_check_security")
int BPF_PROG(aw_bprm_check, struct linux_binprm *bprm)
{
	struct task *t = governed();
	struct file *file;

	if (!t)
		return 0;
	file = bprm->file;
	begin(t);
	consider(t, VERB_EXEC, as_number(t, file->f_path.mnt), as_number(t, file->f_path.dentry), CODE);
	return conclude(t);
}

/*
 * The last moment at which a start may fail: from here on the old program does not run again. A set-id program would
 * leave what its user and group may do: sudo and the like are not for governed tasks.
 */
SEC("lsm/bprm_creds_from_file")
int BPF_PROG(aw_bprm_creds, struct linux_binprm *bprm, struct file *file)
{
	struct task *t = governed();
	const struct cred *now;

	if (!t)
		return select_start(bprm->file, bprm->cred->uid.val, bprm->cred->euid.val, true);
	now = ((struct task_struct *)bpf_get_current_task_btf())->cred;
	if ((bprm->cred->euid.val != now->euid.val || bprm->cred->egid.val != now->egid.val) && now->euid.val != 0)
		return never(t, NEVER_SET_ID);
	return 0;
}

SEC("lsm/mmap_file")
int BPF_PROG(aw_mmap_file, struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)
{
	struct task *t;

	if (!file || !(prot & PROT_EXEC))
		return 0;
	t = governed();
	return t ? on_code(t, file) : 0;
}

SEC("lsm/file_mprotect")
int BPF_PROG(aw_file_mprotect, struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot)
{
	struct task *t;
	struct file *file;

	if (!(prot & PROT_EXEC))
		return 0;
	t = governed();
	if (!t || BPF_CORE_READ(vma, vm_flags) & VM_EXEC)
		return 0;
	file = BPF_CORE_READ(vma, vm_file);
	return file ? on_code(t, file) : 0;
}

#endif
