package admin

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
)

// The management API describes itself as OpenAPI 3.1: operations lists the calls,
// the schemas are made from the Go types that are read and written, and fieldDocs
// explains the fields. Tests compare all three with the routes and with real
// answers.

// operation is one call of the API with its description.
type operation struct {
	call       call
	stream     func(*api, *limiter.Limiter, http.ResponseWriter, *http.Request) // in place of call, for an answer that is not JSON
	summary    string
	permission record.Permission // anyCaller, or what the caller's role needs
	query      []string          // names in parameterDocs
	headers    []string
	body       any    // a value of the type that is read; nil: none
	optional   bool   // the call may have no body
	status     int    // of the answer; 0: 200
	answer     any    // a value of the type that is written; nil: nothing, or content
	partly     bool   // an error may come with the answer; see partlyDone
	content    string // the media type of an answer that is not JSON
	replay     any    // like answer, for a call done before under its Idempotency-Key; nil: it takes none
	others     []otherAnswer
	closed     bool // works while the store is closed
}

// otherAnswer is an answer with another status that is not one of the failures common to
// all calls.
type otherAnswer struct {
	status  int
	when    string
	answer  any    // see operation
	content string // see operation
}

func (op *operation) done() int { return cmp.Or(op.status, http.StatusOK) }

// anyCaller is the permission for calls that every admin token may make.
const anyCaller record.Permission = ""

type schema = map[string]any

// openAPI returns the document, which is built only once.
var openAPI = sync.OnceValue(func() schema {
	g := &schemas{components: schema{}}
	paths := schema{}
	for _, pattern := range slices.Sorted(maps.Keys(operations)) {
		op := operations[pattern]
		method, path, _ := strings.Cut(pattern, " ")
		at, ok := paths[path].(schema)
		if !ok {
			at = schema{}
			if params := pathParameters(path); len(params) > 0 {
				at["parameters"] = params
			}
			paths[path] = at
		}
		at[strings.ToLower(method)] = g.operation(pattern, &op)
	}
	g.components["Error"] = schema{
		"type": "object", "required": []string{"error"},
		"properties": schema{"error": g.of(reflect.TypeFor[wire.Fault](), false)},
	}
	return schema{
		"openapi": "3.1.0",
		"info": schema{
			"title": "till management API", "version": "1",
			"description": "Mints and manages scoped keys. The same API in two places: under /till/ on Caddy's admin endpoint, where every caller is the operator, and under /till/api/ on a site with till_console, for admin tokens. Keys and tokens that the caller may not see do not exist for that caller (404). Unknown fields and parameters are an error.",
			"license":     schema{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"servers": []schema{
			{"url": "/till", "description": "on Caddy's admin endpoint, for the operator"},
			{"url": "/till/api", "description": "on a site with till_console, for admin tokens"},
		},
		"security":   []schema{{}, {"adminToken": []string{}}},
		"paths":      paths,
		"components": schema{"schemas": g.components, "securitySchemes": schema{"adminToken": schema{"type": "http", "scheme": "bearer", "bearerFormat": "till_admin_…"}}},
	}
})

func (a *api) openapi(*limiter.Limiter, *http.Request) (any, error) { return openAPI(), nil }

func pathParameters(path string) []schema {
	var params []schema
	for part := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			params = append(params, schema{"name": name, "in": "path", "required": true, "schema": schema{"type": "string"}, "description": parameterDocs["{"+name+"}"]})
		}
	}
	return params
}

func (g *schemas) operation(pattern string, op *operation) schema {
	permission := string(op.permission)
	if op.permission == anyCaller {
		permission = "any token"
	}
	text := op.summary + ". Permission: " + permission + "."
	if op.closed {
		text += " Works while the store is closed."
	}
	o := schema{
		"operationId": operationID(pattern), "summary": op.summary, "description": text, "x-till-permission": permission,
	}
	var params []schema
	for _, name := range op.query {
		params = append(params, schema{"name": name, "in": "query", "schema": schema{"type": "string"}, "description": parameterDocs[name]})
	}
	headers := op.headers
	if op.replay != nil {
		headers = append([]string{idempotencyHeader}, headers...)
	}
	for _, name := range headers {
		params = append(params, schema{"name": name, "in": "header", "schema": schema{"type": "string"}, "description": parameterDocs[name]})
	}
	if len(params) > 0 {
		o["parameters"] = params
	}
	if op.body != nil {
		o["requestBody"] = schema{
			"required": !op.optional,
			"content":  schema{"application/json": schema{"schema": g.of(reflect.TypeOf(op.body), true)}},
		}
	}
	answers := append([]otherAnswer{{op.done(), http.StatusText(op.done()), op.answer, op.content}}, op.others...)
	if op.replay != nil {
		answers = append(answers, otherAnswer{status: http.StatusOK, when: "it was done before, under this Idempotency-Key", answer: op.replay})
	}
	responses := schema{}
	for _, a := range answers {
		status, response := strconv.Itoa(a.status), schema{"description": a.when}
		switch before, both := responses[status].(schema); {
		case both:
			g.either(before, a.answer)
			continue
		case a.content != "":
			response["content"] = schema{a.content: schema{}}
		case a.answer != nil:
			response["content"] = schema{"application/json": schema{"schema": g.of(reflect.TypeOf(a.answer), false)}}
		}
		responses[status] = response
	}
	wrong := schema{"$ref": "#/components/schemas/Error"}
	if op.partly {
		wrong = schema{"anyOf": []schema{wrong, g.of(reflect.TypeOf(op.answer), false)}}
	}
	responses["default"] = schema{"description": "what went wrong", "content": schema{"application/json": schema{"schema": wrong}}}
	o["responses"] = responses
	return o
}

// either adds another answer to a response in JSON, unless it is of the same named type.
func (g *schemas) either(response schema, answer any) {
	content := response["content"].(schema)["application/json"].(schema)
	first, second := content["schema"].(schema), g.of(reflect.TypeOf(answer), false)
	if first["$ref"] != second["$ref"] {
		content["schema"] = schema{"anyOf": []schema{first, second}}
	}
}

// operationID is the name of a call in generated clients: getKeysId, postKeysIdRotate.
func operationID(pattern string) string {
	method, path, _ := strings.Cut(pattern, " ")
	id := strings.ToLower(method)
	for _, part := range strings.FieldsFunc(path, func(r rune) bool { return strings.ContainsRune("/{}._", r) }) {
		id += strings.ToUpper(part[:1]) + part[1:]
	}
	return id
}

// schemas makes schemas from types. Named types become components.
type schemas struct{ components schema }

// enums lists the values of text types that have only a few.
var enums = map[reflect.Type][]any{
	reflect.TypeFor[record.Status]():       values(record.Statuses[:]),
	reflect.TypeFor[record.Charge]():       values(record.Charges[:]),
	reflect.TypeFor[record.Renewal]():      values(record.Renewals[:]),
	reflect.TypeFor[record.Sight]():        values(record.Sights[:]),
	reflect.TypeFor[limiter.LeakState]():   values(limiter.LeakStates[:]),
	reflect.TypeFor[limiter.StaleReason](): values(limiter.StaleReasons[:]),
	reflect.TypeFor[wire.Level]():          values(wire.Levels[:]),
	reflect.TypeFor[event.Name]():          values(event.Names),
	reflect.TypeFor[record.Permission]():   values(record.Permissions),
}

func values[Word ~string](of []Word) (list []any) {
	for _, word := range of {
		list = append(list, word)
	}
	return list
}

// texts lists the types that are written as text, with the schema of that text.
var texts = map[reflect.Type]schema{
	reflect.TypeFor[time.Time]():    {"type": "string", "format": "date-time"},
	reflect.TypeFor[wire.Span]():    {"type": "string", "examples": []string{"90s", "24h", "7d"}},
	reflect.TypeFor[wire.Dollars](): {"type": []string{"string", "number"}, "examples": []string{"5.00"}},
	reflect.TypeFor[wire.RealKey](): {"type": "string", "writeOnly": true},
	reflect.TypeFor[record.Rate]():  {"type": "string", "examples": []string{"60/m", "10/s"}},
	// An audit entry exactly as it was written, because its hash covers exactly
	// these bytes.
	reflect.TypeFor[json.RawMessage](): {"type": "object", "description": "an audit entry: seq, time, actor, from, action, key, changes, prev, hash"},
}

// of returns the schema of a type; request is true for types that are read and not
// written.
func (g *schemas) of(t reflect.Type, request bool) schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s, ok := texts[t]; ok {
		return s
	}
	if values, ok := enums[t]; ok {
		return schema{"type": "string", "enum": values}
	}
	switch t.Kind() {
	case reflect.String:
		return schema{"type": "string"}
	case reflect.Bool:
		return schema{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return schema{"type": "integer"}
	case reflect.Slice:
		return schema{"type": "array", "items": g.of(t.Elem(), request)}
	case reflect.Map:
		return schema{"type": "object", "additionalProperties": g.of(t.Elem(), request)}
	case reflect.Struct:
		if t.Name() == "" {
			return g.object(t, request)
		}
		name := strings.ToUpper(t.Name()[:1]) + t.Name()[1:]
		if _, made := g.components[name]; !made {
			g.components[name] = schema{} // for types that contain themselves
			g.components[name] = g.object(t, request)
		}
		return schema{"$ref": "#/components/schemas/" + name}
	}
	panic("openapi: no schema for " + t.String())
}

func (g *schemas) object(t reflect.Type, request bool) schema {
	properties, required := schema{}, []string{}
	for _, f := range fieldsOf(t) {
		s := g.of(f.typ, request)
		if text := fieldDocs[f.name]; text != "" {
			s = withDescription(s, text)
		}
		properties[f.name] = s
		if !f.optional && !request {
			required = append(required, f.name)
		}
	}
	o := schema{"type": "object", "properties": properties}
	if len(required) > 0 {
		o["required"] = required
	}
	if request {
		o["additionalProperties"] = false
	}
	return o
}

func withDescription(s schema, text string) schema {
	described := schema{"description": text}
	for name, v := range s {
		if name != "description" {
			described[name] = v
		}
	}
	return described
}

type jsonField struct {
	name     string
	typ      reflect.Type
	optional bool
}

// fieldsOf lists the JSON fields of a struct, with those of embedded structs in
// their place.
func fieldsOf(t reflect.Type) (fields []jsonField) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, tagged := f.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		switch {
		case f.Anonymous && !tagged:
			inner := f.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			fields = append(fields, fieldsOf(inner)...)
		case !f.IsExported() || name == "-":
		default:
			name = cmp.Or(name, f.Name)
			fields = append(fields, jsonField{name, f.Type, strings.Contains(options, "omit")})
		}
	}
	return fields
}
