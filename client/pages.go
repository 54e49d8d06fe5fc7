package client

import (
	"iter"
	"net/url"
	"strconv"

	"github.com/berthdev/berth/api"
)

// PageQuery asks for one page of a list: Page is the cursor of the page
// before, "" for the first; Limit 0 is the server's default.
type PageQuery struct {
	Page  string
	Limit int
}

func (p PageQuery) values() url.Values {
	q := url.Values{}
	if p.Page != "" {
		q.Set("page", p.Page)
	}
	if p.Limit > 0 {
		q.Set("limit", strconv.Itoa(p.Limit))
	}
	return q
}

// All walks a list over all its pages: next asks for the page behind a cursor
// ("" is the first). It ends at the first error, which it yields.
//
//	for env, err := range client.All(func(page string) (*api.Page[api.Environment], error) {
//		return c.Environments(ctx, client.EnvironmentQuery{PageQuery: client.PageQuery{Page: page}})
//	}) { … }
func All[T any](next func(page string) (*api.Page[T], error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for page := ""; ; {
			p, err := next(page)
			if err != nil {
				var zero T
				yield(zero, err)
				return
			}
			for _, v := range p.Data {
				if !yield(v, nil) {
					return
				}
			}
			if p.NextPage == nil || *p.NextPage == "" || *p.NextPage == page {
				return
			}
			page = *p.NextPage
		}
	}
}
