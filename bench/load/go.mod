module tailrace/bench/load

go 1.24

require tailrace/bench/marks v0.0.0

replace tailrace/bench/marks => ../marks
