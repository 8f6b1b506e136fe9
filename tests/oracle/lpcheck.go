// SPDX-License-Identifier: Apache-2.0

// Lpcheck reads payloads of line protocol from its standard input, each ended by an empty line, and
// writes what InfluxDB's own parser makes of each on a line of JSON: {"points": [...]}, or
// {"error": "..."} where it refuses. Numbers are written as text, so that nothing rounds them.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/influxdata/influxdb/models"
)

type point struct {
	Measurement string               `json:"measurement"`
	Tags        map[string]string    `json:"tags"`
	Fields      map[string][2]string `json:"fields"` // type, value
	Time        string               `json:"time"`   // ns since the epoch
}

type verdict struct {
	Points []point `json:"points,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// Without a timestamp a point has this time; no test uses it.
var defaultTime = time.Unix(0, -1)

func describe(parsed models.Point) (point, error) {
	p := point{
		Measurement: string(parsed.Name()),
		Tags:        map[string]string{},
		Fields:      map[string][2]string{},
		Time:        strconv.FormatInt(parsed.UnixNano(), 10),
	}
	for _, tag := range parsed.Tags() {
		p.Tags[string(tag.Key)] = string(tag.Value)
	}
	fields, err := parsed.Fields()
	if err != nil {
		return p, err
	}
	for name, value := range fields {
		switch v := value.(type) {
		case int64:
			p.Fields[name] = [2]string{"integer", strconv.FormatInt(v, 10)}
		case float64:
			p.Fields[name] = [2]string{"float", strconv.FormatFloat(v, 'g', 17, 64)}
		default:
			p.Fields[name] = [2]string{fmt.Sprintf("%T", v), fmt.Sprint(v)}
		}
	}
	return p, nil
}

func judge(payload []byte) verdict {
	parsed, err := models.ParsePointsWithPrecision(payload, defaultTime, "ns")
	if err != nil {
		return verdict{Error: err.Error()}
	}
	points := []point{}
	for _, each := range parsed {
		p, err := describe(each)
		if err != nil {
			return verdict{Error: err.Error()}
		}
		points = append(points, p)
	}
	return verdict{Points: points}
}

func main() {
	in, out := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	var payload bytes.Buffer
	for {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(err)
		}
		if len(line) > 1 {
			payload.Write(line)
			continue
		}
		if err := out.Encode(judge(payload.Bytes())); err != nil {
			panic(err)
		}
		payload.Reset()
	}
}
