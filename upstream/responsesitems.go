package upstream

import (
	"fmt"
	"strings"
)

// stored is something that a Responses request names but does not hold, because its
// vendor has it.
type stored struct {
	id   string // a part of the request's text; "" if it cannot be known
	kind storedKind
	at   int // index in the input; unused for a member of the request
}

// sent is an item of a Responses request with an id, under which the vendor may store
// it in place of an earlier one.
type sent struct {
	id     string
	tokens int64 // the most tokens
	media  bool  // it holds pictures, or content that only the context window bounds
}

type storedKind uint8

const (
	storedThoughts     storedKind = iota // a reasoning item without its content
	storedItem                           // any item, by an item_reference
	storedAnswer                         // previous_response_id
	storedConversation                   // a conversation, to which anyone may add meanwhile
)

// continuedFrom are the members of a Responses request that name what it continues.
var continuedFrom = map[string]storedKind{"previous_response_id": storedAnswer, "conversation": storedConversation}

const (
	// maxStored bounds how many stored things a request may name before all of it
	// counts as the model's context window.
	maxStored = 4096
	// maxStoredID is longer than the ids of vendors, which have some 50 characters.
	maxStoredID = 128
)

// String returns what the stored thing is and where it is named. The id is the
// client's own text.
func (s stored) String() string {
	switch s.kind {
	case storedThoughts:
		return fmt.Sprintf("input[%d] (reasoning %.64q)", s.at, s.id)
	case storedItem:
		return fmt.Sprintf("input[%d] (item_reference %.64q)", s.at, s.id)
	case storedAnswer:
		return fmt.Sprintf("previous_response_id %.64q", s.id)
	}
	return fmt.Sprintf("conversation %.64q", s.id)
}

// help returns what a client can do so that the request holds the thing itself.
func (s stored) help() string {
	switch s.kind {
	case storedThoughts:
		return `send include: ["reasoning.encrypted_content"] or store: false with every request, so that answers hold their reasoning`
	case storedItem:
		return "send the item itself, with store: false"
	}
	return "send the conversation itself in input"
}

// input walks through the list of a Responses request's items.
func (c *content) input(list []byte) {
	i := 1
	c.length += 2
	for at := 0; ; at++ {
		i += spaces(list[i:])
		if list[i] == ']' {
			return
		}
		i += c.item(list[i:], at)
		c.length += 2 // a comma
	}
}

// item walks through the item at the beginning of b, and returns its length. An item
// may name something stored that is not in the request.
func (c *content) item(b []byte, at int) int {
	if b[0] != '{' {
		return c.walk(b, "", inItem, 1)
	}
	n := c.outline.element(b)
	var kind, id, other string
	var typed, spoken, named, renamed, sealed, twice bool
	untyped := true // whether the type is missing or null
	for name, value := range rawObject(b[:n]).members {
		switch name {
		case "type":
			untyped = typed && untyped || value[0] == 'n'
			kind, typed = word(value), true
		case "id":
			renamed = renamed || named
			id, named = word(value), value[0] != 'n'
		case "role":
			spoken = spoken || value[0] != 'n'
			other = name
		case "encrypted_content":
			twice = twice || sealed
			sealed = word(value) != ""
			other = name
		default:
			other = name
		}
	}
	// An item whose id has another prefix is not reasoning.
	thoughts := storedThoughts
	if named && (renamed || !strings.HasPrefix(id, "rs_")) {
		thoughts = storedItem
	}
	if twice || renamed {
		id, sealed = "", false // of two ids, it is not known which one the vendor reads
	}
	before, held, images := c.length, c.tokens(), c.images
	switch {
	case kind == "item_reference", named && untyped && !spoken:
		if other != "" {
			c.fail("input[%d] is a reference, and has a field %.64q", at, other)
		}
		c.addText(b[:n], c.layout)
		c.encoded += c.length - before // no model reads the id of a reference
		c.names(stored{id, storedItem, at})
		return n
	case kind == "reasoning" && !sealed:
		c.names(stored{id, thoughts, at})
	case (kind == "compaction" || kind == "context_compaction") && !sealed:
		c.names(stored{id, storedItem, at})
	}
	c.walk(b[:n], "", inItem, 1)
	switch {
	case kind == "reasoning":
		c.thoughts += c.length - before
	case renamed:
		c.fail("input[%d] has two ids", at)
	case id != "" && len(id) <= maxStoredID:
		s := sent{id, c.tokens() - held, c.window || c.images > images}
		if c.window {
			s.tokens = 1 << 40
		}
		c.sent = append(c.sent, s)
	}
	return n
}

// member reads one of the members in continuedFrom.
func (c *content) member(kind storedKind, value []byte) {
	if value[0] == '{' { // a conversation may stand in an object
		value = rawObject(value).get("id")
	}
	c.names(stored{word(value), kind, 0})
}

// names records something that the request names but does not hold.
func (c *content) names(s stored) {
	if len(s.id) > maxStoredID {
		s.id = strings.ToValidUTF8(s.id[:64], "") + "…" // too long for a vendor's id, and only shown
	}
	if len(c.stored) == maxStored {
		c.window, c.remote = true, true
		return
	}
	c.stored = append(c.stored, s)
}
