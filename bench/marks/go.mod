module tailrace/bench/marks

go 1.24
