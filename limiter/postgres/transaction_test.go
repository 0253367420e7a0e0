package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/store"
)

func BenchmarkUpdateRows(b *testing.B) {
	s := benchmarked(b)
	rows := store.Rows{Lock: [][]byte{[]byte("a/1")}, Read: [][]byte{[]byte("q/1")}}
	for b.Loop() {
		err := s.UpdateRows(rows, func(tx store.Tx) error {
			return errors.Join(tx.Set([]byte("a/1"), make([]byte, 200)), tx.Set([]byte("q/1"), make([]byte, 60)))
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	s := benchmarked(b)
	for b.Loop() {
		err := s.Update(func(tx store.Tx) error {
			_, err := tx.Get([]byte("a/1"))
			return errors.Join(err, tx.Set([]byte("a/1"), make([]byte, 200)), tx.Set([]byte("q/1"), make([]byte, 60)))
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRevoke is a change that another node follows, and the wait for that.
func BenchmarkRevoke(b *testing.B) {
	s := benchmarked(b)
	for b.Loop() {
		if err := s.Update(func(tx store.Tx) error { return tx.Set([]byte("f/1"), make([]byte, 200)) }); err != nil {
			b.Fatal(err)
		}
		if behind, err := s.Settled(time.Minute); err != nil || len(behind) != 0 {
			b.Fatal(behind, err)
		}
	}
}

func BenchmarkView(b *testing.B) {
	s := benchmarked(b)
	for b.Loop() {
		if err := s.View(func(r store.Reader) error { _, err := r.Get([]byte("a/1")); return err }); err != nil {
			b.Fatal(err)
		}
	}
}

// benchmarked is one of two nodes.
func benchmarked(b *testing.B) *postgres.Store {
	dsn, schema := postgrestest.Schema(b)
	var stores []*postgres.Store
	for i := range 2 {
		s, err := postgres.Open(context.Background(), postgres.Options{DSN: dsn, Schema: schema, Node: fmt.Sprint(i)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { s.Close() })
		if err := s.Join(&follower{}); err != nil {
			b.Fatal(err)
		}
		stores = append(stores, s)
	}
	if err := stores[0].Update(func(tx store.Tx) error { return tx.Set([]byte("a/1"), []byte("1")) }); err != nil {
		b.Fatal(err)
	}
	return stores[0]
}
