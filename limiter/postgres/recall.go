package postgres

import (
	"encoding/hex"
	"slices"
	"time"
)

// Recall implements store.Shared.
func (s *Store) Recall(account []byte) {
	select {
	case s.asks <- account:
	default: // it is asked for again
	}
}

// recallEvery is the time between two requests for one account.
const recallEvery = 50 * time.Millisecond

// recallAll sends the requests of Recall, until the store is closed.
func (s *Store) recallAll() {
	sent := make(map[string]time.Time)
	for {
		var accounts []string
		select {
		case <-s.ending.Done():
			return
		case account := <-s.asks:
			accounts = append(accounts, string(account))
		}
		for more := true; more; {
			select {
			case account := <-s.asks:
				accounts = append(accounts, string(account))
			default:
				more = false
			}
		}
		slices.Sort(accounts) // their rows are locked in this order
		now := time.Now()
		for account, at := range sent {
			if now.Sub(at) >= recallEvery {
				delete(sent, account)
			}
		}
		var payloads []string
		var asked [][]byte
		for _, account := range accounts {
			if _, recent := sent[account]; recent {
				continue
			}
			sent[account] = now
			asked = append(asked, []byte(account))
			payloads = append(payloads, hex.EncodeToString(s.session)+" "+hex.EncodeToString([]byte(account)))
		}
		if len(payloads) == 0 {
			continue
		}
		_, err := s.within(s.ending, followTimeout, say(lazySettings), say(`SELECT pg_notify($1, p) FROM unnest($2::text[]) AS p`, textOf(s.channel("recall")), textsOf(payloads)),
			say(s.sql.recall, byteaOf(s.session), byteasOf(asked)))
		if err != nil {
			s.log.Debug("asking other nodes for what they do not use", "error", err)
			s.unblock(faultOf(err))
		}
	}
}

// recalled leaves a request to the goroutine that follows.
func (s *Store) recalled(account []byte) {
	select {
	case s.follow.recalls <- account:
	default: // the other node asks again
	}
}

// readRecalls reads the requests of other nodes, where notifications do not arrive.
func (s *Store) readRecalls(l *listener) error {
	results, err := l.runWithin(s.ending, renewTimeout, say(s.sql.recalled, byteaOf(s.session)))
	if err != nil {
		return err
	}
	for _, row := range results[0].Rows {
		s.recalled(row[0])
	}
	return nil
}
