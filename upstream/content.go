package upstream

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// content walks once through what a request gives a model to read, and finds the parts
// that the request's length does not bound: pictures, sound, files, and everything
// stored elsewhere.
type content struct {
	images  int64 // pictures
	length  int64 // the most tokens in the parts walked so far; see promptLength
	encoded int64 // the part of length that is pictures and files, not text
	window  bool  // it holds something that only the model's context window bounds
	cached  bool  // it asks for parts to be written to a cache
	hour    bool  // it asks for them to be kept for an hour or longer
	err     error
	remote  bool // it names an address whose content may change before the vendor reads it

	stored   []stored // stored things that it names
	sent     []sent   // items that it holds under an id
	thoughts int64    // the part of length that may be a model's thoughts

	documents bool // it holds documents, or may

	film  bool   // it may hold a film
	again string // how a model looks into films again and again; "": it does not

	allText bool   // what looks like a picture may be text, so nothing is deducted
	files   bool   // an address may lead to a film or a document
	bare    bool   // "images" holds pictures and nothing else
	embeds  bool   // it asks for embeddings: media may stand in it without a type
	layout  layout // how a prompt may print the messages
	outline *outline

	shape      shape
	preset     *Preset
	references int64 // names of tools, each of which stands for a definition
	defined    int64 // tokens of the definitions that they may stand for, including added

	definedBytes int64 // length of those definitions as written, in bytes
	added        int64 // tokens of definitions that the vendor writes
	deferred     bool  // the model reads some definitions only on request
	searches     bool  // the provider may request them as well
}

// elsewhere are members that refer to content outside the request.
var elsewhere = set(
	"file_id", "file_ids", "file_url", "fileUri", "file_uri", "fileData", "file_uris", "cachedContent", "cached_content",
	"previous_response_id", "conversation", "container", "vector_store_ids", "mcp_servers",
)

// opaque are members whose content belongs to the application: to a model it is text,
// whatever it looks like.
var opaque = set(
	"arguments", "args", "parameters", "input_schema", "schema", "json_schema", "parametersJsonSchema", "responseSchema",
	"response_schema", "responseJsonSchema", "response", "metadata", "input",
)

// writings are the exact spellings of the content fields that are looked at. Some
// servers ignore the case of letters, so any other spelling is refused.
var writings = set(
	"type", "media_type", "mimeType", "mime_type", "format", "data", "audio", "ttl", "cache_control", "prompt_cache_breakpoint",
	"images", "url", "image_url", "file_data", "fileData", "file_id", "file_ids", "file_url", "fileUri", "file_uri",
	"file_uris", "cachedContent", "cached_content", "previous_response_id", "conversation", "container",
	"vector_store_ids", "mcp_servers", "tools", "definition",
)

// ruledContent maps the folded form of each name in writings to its spelling.
var ruledContent = func() map[string]string {
	m := make(map[string]string, len(writings))
	for name := range writings {
		m[fold(name)] = name
	}
	return m
}()

const maxContentDepth = 100

// tokens returns the most tokens that the parts walked so far can count.
func (c *content) tokens() int64 {
	text := c.length - c.encoded
	return text + text/10 + c.images*imageTokens + c.added + c.references*(c.defined+c.defined/10)
}

// toolset adds a family of tools whose definitions the vendor writes.
func (c *content) toolset() {
	c.added += toolsetTokens
	c.defined += toolsetTokens
}

// addText counts a value as text, whatever it looks like: it belongs to the
// application, or is not content.
func (c *content) addText(value []byte, f layout) int {
	n, tokens := promptLength(value, f, c.outline)
	c.length += tokens
	return n
}

// walk reads the value at the beginning of valid JSON and returns its length. key is
// the name of the value's member, and at the value's position.
func (c *content) walk(b []byte, key string, at position, depth int) int {
	if depth > maxContentDepth {
		c.fail("it is nested more than %d deep", maxContentDepth)
		return skipValue(b)
	}
	switch at {
	case inMetadata:
		return c.quoted(b)
	case inTools, inDefinition:
		return c.definitions(b, at)
	}
	switch b[0] {
	case '"':
		n, tokens := stringLength(b, c.layout, c.outline)
		c.length += tokens
		c.media(key, b[:n], tokens)
		return n
	case '[':
		i := 1
		c.length += 2
		for {
			i += spaces(b[i:])
			if b[i] == ']' {
				return i + 1
			}
			i += c.walk(b[i:], key, at, depth+1)
			c.length += 2 // a comma
		}
	case '{':
		return c.object(b, at, depth)
	}
	return c.addText(b, c.layout)
}

// quoted counts a value that a prompt may print as JSON.
func (c *content) quoted(b []byte) int { return c.addText(b, max(c.layout, asJSON)) }

// definitions checks the tools defined within a conversation, and counts them.
func (c *content) definitions(b []byte, at position) int {
	before := c.length
	n := c.addText(b, max(c.preset.toolForm(), c.layout))
	c.length += toolsTokens
	c.defined += c.length - before
	c.definedBytes += int64(n)
	list := b[:n]
	if at == inDefinition {
		list = slices.Concat([]byte{'['}, list, []byte{']'})
	}
	if b[0] == 'n' {
		return n // null
	}
	if err := c.preset.tools(list, false, c); err != nil && c.err == nil {
		c.err = err
	}
	return n
}

func (c *content) object(b []byte, at position, depth int) int {
	var kind, media string
	var data int64
	var address []byte        // the address in a block; the type of the block says whether the vendor opens it
	var typed, described bool // of a repeated member, two readers may take different ones
	var named, addressed bool // the block names a stored file, or an address
	var kept bool             // the block names media that the server has
	var pictured, timed bool  // it has a member for a picture; for sound or a film
	bound := byLength         // applies to a block without a type
	before := c.images
	listed := int64(0) // the pictures in lists of them
	i := 1
	c.length += 2
	for {
		i += spaces(b[i:])
		if b[i] == '}' {
			break
		}
		n, tokens := stringLength(b[i:], c.layout, c.outline)
		c.length += tokens + 4 // a colon and a comma
		name := view(b[i : i+n])
		i += n
		i += spaces(b[i:])
		value := b[i:]
		switch name {
		case "role", "text", "id", "name", "tool_use_id", "call_id", "signature":
			// Most members have one of these names, and nothing below concerns them.
			i += c.walk(value, name, unknown, depth+1)
			continue
		}
		next := c.shape.position(at, name)
		if next >= inMetadata {
			i += c.walk(value, name, next, depth+1)
			continue
		}
		switch name {
		case "content", "parts", "thinking":
			i += c.walk(value, name, next, depth+1)
			continue
		}
		if !writings[name] {
			// Where everything is text, fields may have any name.
			if plain := fold(name); ruledContent[plain] != "" && (!c.allText || plain == "imageurl") {
				c.fail("it has a field %.64q; write %s", name, ruledContent[plain])
			}
		}
		switch {
		case depth > 0 && opaque[name]:
			n := c.quoted(value)
			if value[0] == '"' {
				c.length += reprinted(value[:n])
			}
			i += n
			continue
		case name == "type" && value[0] == '"':
			kind = view(value[:skipString(value)])
			if typed {
				c.fail("a part of it has two types")
			}
			typed = true
			if bound = c.shape.kind(at, kind); bound == refused {
				c.fail("it holds content of type %.64q", kind)
			}
		case at == inBlock && name == "uuid":
			kept = kept || value[0] != 'n'
		case c.embeds && name == "image":
			pictured = pictured || at == inBlock
			listed += elementsOf(value)
			if value[0] == '{' { // nobody documents that
				c.images++
			}
			i += c.walk(value, "url", next, depth+1) // data or an address, or several
			continue
		case at == inBlock && (name == "image_url" || name == "image_pil" || name == "image_embeds" || name == "image"): // the last is DashScope's, without a type
			pictured = true
			listed += elementsOf(value)
		case name == "audio_embeds", name == "video_embeds", name == "multimodal_data", strings.HasSuffix(name, "_url") && name != "image_url" && name != "file_url":
			if value[0] != 'n' {
				c.window, c.remote = true, true
			}
			timed = true
		case (name == "max_dynamic_patch" || name == "min_dynamic_patch" || name == "modalities" && word(value[:skipValue(value)]) != "image") && value[0] != 'n':
			c.window = true // at SGLang, a picture has as many pieces as this says, or is a film
		case c.embeds && (name == "video" || name == "audio") && value[0] != 'n':
			c.window, c.remote = true, true
		case c.shape == geminiShape && !c.plainMedia(name, value):
		case (name == "media_type" || name == "mimeType" || name == "mime_type") && value[0] == '"':
			media = view(value[:skipString(value)])
			if described {
				c.fail("a part of it has two media types")
			}
			described = true
		case name == "data" && value[0] == '"':
			_, data = stringLength(value, c.layout, c.outline)
		case name == "audio" && value[0] == '{':
			c.fail("%q may point at what is not in the request", name)
		case at == inBlock && (name == "video" || name == "audio"): // DashScope's, without a type
			timed = true
		case name == "prompt_cache_breakpoint" && c.err == nil:
			c.err = c.cacheLifetime(name, value[:skipValue(value)])
		case name == "ttl" && value[0] == '"':
			ttl := view(value[:skipString(value)])
			c.hour = c.hour || ttl != "5m" && ttl != "30m"
		case name == "cache_control" && value[0] == '{':
			c.cached = true
		case at == inBlock && name == "url" && value[0] == '"' && !addressed:
			n, tokens := stringLength(value, c.layout, c.outline)
			c.length += tokens
			address, addressed = value[:n], true
			i += n
			continue
		case at == inBlock && name == "file_id" && value[0] == '"':
			named = true
		case elsewhere[name] && value[0] != 'n':
			c.fail("%q points at what is not in the request", name)
		}
		i += c.walk(value, name, next, depth+1)
	}
	if named && !c.shape.namesFile(bound) {
		c.fail("%q points at what is not in the request", "file_id")
	}
	if addressed && bound != byQuote {
		_, tokens := stringLength(address, c.layout, c.outline)
		c.media("url", address, tokens)
	}
	switch bound {
	case byPicture:
		c.images++
		c.remote = true
	case byWindow:
		c.window, c.remote = true, true
	case byReference:
		c.references++
	}
	if kind == "input_audio" {
		c.window, c.remote = true, true // the sound may be given by its address
	}
	switch {
	case c.allText && data > 0:
		c.window = true
	case data > 0 && strings.HasPrefix(media, "image/"):
		c.images++
		c.encoded += data
	case data > 0 && kind == "redacted_thinking":
		// The data is at least as long as what was thought.
	case data > 0 && !strings.HasPrefix(media, "text/"):
		c.window, c.film = true, true
		c.documents = c.documents || strings.HasPrefix(media, "application/")
		c.encoded += data
	case kind == "url":
		c.window, c.remote = true, true // the source of a picture or of a document
	}
	// vLLM keeps media by their "uuid". Beside a uuid, and where there is no type, a
	// member for media counts even if it is null; otherwise the type decides
	// (vllm/entrypoints/chat_utils.py).
	kept = at == inBlock && (kept || kind == "")
	least := before + max(listed, 1)
	if c.images < least && (kept && pictured || c.embeds && listed > 0 || kind == "image" || kind == "image_url" || kind == "input_image") {
		c.images, c.remote = least, true
	}
	if kept && timed {
		c.window, c.remote = true, true
	}
	c.documents = c.documents || kind == "file" || kind == "input_file" || kind == "document"
	return i + 1
}

// media looks at a string that may be a picture or a file, or the address of one.
func (c *content) media(key string, value []byte, tokens int64) {
	if key == "images" {
		c.images++ // Ollama's pictures, in base64
		if c.bare {
			c.encoded += tokens
		}
		return
	}
	if key != "url" && key != "image_url" && key != "file_data" {
		return
	}
	whole := view(value)
	head := strings.ToLower(strings.TrimSpace(whole[:min(len(whole), 64)]))
	data := strings.HasPrefix(head, "data:")
	c.documents = c.documents || key == "file_data" || isDocument(head, whole)
	switch {
	case c.allText:
		c.images++
		c.window = c.window || key == "file_data"
		return
	case strings.HasPrefix(head, "data:image/"):
		c.images++
	case data, key == "file_data", strings.HasPrefix(head, "video:"): // the latter is SGLang's
		c.window = true
		c.remote = c.remote || !data
	default:
		c.images++ // by its address
		c.remote = true
		c.window = c.window || c.files || strings.Contains(whole, "#transform") // Fireworks reads documents this way
		return
	}
	c.encoded += tokens
}

// elementsOf returns how many elements the list at the beginning of b has; 0 if there is
// none.
func elementsOf(b []byte) (n int64) {
	if b[0] != '[' {
		return 0
	}
	for range rawList(b).elements {
		n++
	}
	return n
}

// isDocument reports whether a document may be at the address of a picture.
func isDocument(head, whole string) bool {
	if strings.HasPrefix(head, "data:") {
		return !strings.HasPrefix(head, "data:image/") && !strings.HasPrefix(head, "data:video/") && !strings.HasPrefix(head, "data:audio/")
	}
	address, _, _ := strings.Cut(whole, "?")
	address, _, _ = strings.Cut(address, "#")
	return len(address) >= len(".pdf") && strings.EqualFold(address[len(address)-len(".pdf"):], ".pdf")
}

// plainMedia reports whether a member of one of Gemini's parts leaves the size of pictures
// and films to the model. A member may set how many tokens they take, or have the model
// look into films again and again; parts without pictures or films ignore that
// (PartMediaResolution and MediaProcessing of @google/genai 2.32.0).
func (c *content) plainMedia(name string, value []byte) bool {
	switch fold(name) {
	case "numtokens":
		c.window = c.window || value[0] != 'n'
		return false
	case "mediaprocessing":
		value = value[:skipValue(value)]
		if kind := word(value); value[0] != 'n' && kind != "STATIC" && kind != "MEDIA_PROCESSING_UNSPECIFIED" {
			c.again = cmp.Or(kind, string(value))
		}
		return false
	}
	return true
}

func (c *content) fail(format string, args ...any) {
	if c.err == nil {
		c.err = notMeterable(format, args...)
	}
}

// spaces returns how many bytes at the beginning of b separate two values.
func spaces(b []byte) int {
	for i, ch := range b {
		switch ch {
		case ' ', '\t', '\r', '\n', ',', ':':
		default:
			return i
		}
	}
	return len(b)
}

func notMeterable(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNotMeterable, fmt.Sprintf(format, args...))
}
