package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLockNamesItsHolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	lock, err := lockDir(dir, "--data-dir")
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockDir(dir, "--data-dir")
	want := fmt.Sprintf("is in use by berth process %d; stop it, or choose another directory with --data-dir", os.Getpid())
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a second lock: %v", err)
	}
	lock.Release()
	again, err := lockDir(dir, "--data-dir")
	if err != nil {
		t.Fatal(err)
	}
	again.Release()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestOutputsAreNotOverwritten(t *testing.T) {
	dir := t.TempDir()
	if err := checkOutputs(dir, false); err != nil {
		t.Errorf("an empty directory: %v", err)
	}
	if err := checkOutputs(filepath.Join(dir, "new"), false); err != nil {
		t.Errorf("a new directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkOutputs(dir, false); err == nil {
		t.Error("a directory with a file in it was accepted")
	}
	if err := checkOutputs(dir, true); err != nil {
		t.Errorf("with --replace: %v", err)
	}
}

func TestOutputsNeedAPlace(t *testing.T) {
	dir := t.TempDir()
	if err := checkOutputs(filepath.Join(dir, "a", "b"), false); err != nil {
		t.Errorf("a directory to be made: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("the check left %v", left)
	}
	for _, replace := range []bool{false, true} {
		if err := checkOutputs("/proc/none", replace); err == nil {
			t.Errorf("replace %v: a directory that cannot be made was accepted", replace)
		}
	}
	if err := canMake("."); err != nil {
		t.Errorf("the working directory: %v", err)
	}
}

func TestInputs(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.csv")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Mkdir(filepath.Join(dir, "sub"), 0o700),
		os.WriteFile(filepath.Join(dir, "sub", "a.csv"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := readInputs([]string{file}); err != nil || len(got) != 1 || got[0].name != "a.csv" {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range [][]string{{filepath.Join(dir, "nothing")}, {dir}, {file, filepath.Join(dir, "sub", "a.csv")}, {"/dev/null"}} {
		if _, err := readInputs(bad); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}
