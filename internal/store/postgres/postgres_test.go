package postgres_test

import (
	"fmt"
	"testing"

	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

func TestSuite(t *testing.T) {
	for _, writers := range []int{1, 4} {
		t.Run(fmt.Sprintf("writers=%d", writers), func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Store {
				return storetest.PostgresWith(t, store.Options{Writers: writers})
			})
		})
	}
}
