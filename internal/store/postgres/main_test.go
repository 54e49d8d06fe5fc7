package postgres_test

import (
	"testing"

	"go.uber.org/goleak"
)

// Every store that a test closed took its goroutines with it.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
