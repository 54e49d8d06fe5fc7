package app

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox/process"
)

// The users that tools may be in a container, of those that distributions give
// to nobody and that a mapped range of 65,536 has.
const (
	firstToolUser = 60001
	toolUsers     = 4998
)

// toolUser is who the tools of an item are under --sandbox process: 0 for who
// this process is. Items that share a state directory have users of their own:
// one of auto is the item's until it is let go, or this process ends.
func toolUser(flag, sandbox, item, state string) (user int, letGo func(), err error) {
	letGo = func() {}
	if sandbox != process.Name || os.Geteuid() != 0 || flag == "root" {
		if flag != "auto" && flag != "root" {
			return 0, nil, &config.Error{Problem: "--tool-user " + flag + " needs --sandbox process and root", Cure: "leave it out"}
		}
		return 0, letGo, nil
	}
	if flag != "auto" {
		id, err := strconv.Atoi(flag)
		if err != nil || id <= 0 || id > 1<<31-1 {
			return 0, nil, &config.Error{Problem: "--tool-user " + strconv.Quote(flag) + " is no user", Cure: "give auto, root or a number"}
		}
		return id, letGo, nil
	}
	dir := filepath.Join(state, "users")
	if err := makeDir(dir, "--state-dir"); err != nil {
		return 0, nil, err
	}
	h := fnv.New32a()
	h.Write([]byte(item))
	for i := range toolUsers {
		id := firstToolUser + (int(h.Sum32()%toolUsers)+i)%toolUsers
		if _, err := osuser.LookupId(strconv.Itoa(id)); err == nil {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(id)), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return 0, nil, cannotWrite(dir, "--state-dir", err)
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return id, func() { f.Close() }, nil
		}
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return 0, nil, &Error{Problem: fmt.Sprintf("cannot lock a file in %s: %v", dir, err), Cure: "choose a directory on a local file system with --state-dir", Err: err}
		}
	}
	return 0, nil, &config.Error{Problem: "no user is free for the tools", Cure: "name one with --tool-user"}
}

// letPass lets another user pass directories of a worker's state, and list none.
func letPass(dirs ...string) error {
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return cannotWrite(d, "--state-dir", err)
		}
		if err := os.Chmod(d, 0o711); err != nil {
			return cannotWrite(d, "--state-dir", err)
		}
	}
	return nil
}

// itemState is the state directory of one item below a shared one.
func itemState(state, folder string) (run, own string) {
	run = filepath.Join(state, "run")
	return run, filepath.Join(run, folder)
}
