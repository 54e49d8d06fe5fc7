package app

import (
	"os"
	"testing"
)

// TestToolUsers: an item's user is nobody else's while the item runs.
func TestToolUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("by design: only root can start tools as another user")
	}
	state := t.TempDir()
	take := func() (int, func()) {
		t.Helper()
		id, letGo, err := toolUser("auto", "process", "work_1", state)
		if err != nil {
			t.Fatal(err)
		}
		return id, letGo
	}
	one, letGo := take()
	two, letTwoGo := take()
	defer letTwoGo()
	if one == two {
		t.Errorf("both are %d", one)
	}
	letGo()
	again, letGo := take()
	defer letGo()
	if again != one {
		t.Errorf("%d is free, and got %d", one, again)
	}
}
