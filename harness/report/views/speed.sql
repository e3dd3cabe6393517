-- Speed.

-- The newest run of every case of the benchmark: medians over the turns, scaled from the units that a turn
-- did to the whole case, and their spread in per cent. times_harness is made turn by turn, as the contenders
-- take turns: 5 means that the harness needs a fifth.
create view speed as
with newest as (
    select part, "case", arg_max(cell, measured_at) as cell from benchmark group by part, "case"
), turns as (
    select benchmark.*, seconds * amount / measured as whole_s
    from benchmark join newest using (part, "case", cell)
), compared as (
    select turns.*, turns.whole_s / harness.whole_s as ratio
    from turns
    left join turns as harness
        on harness.cell = turns.cell and harness.turn = turns.turn and harness.contender = 'harness'
)
select part, "case", contender,
    any_value(device) as device, any_value(threads) as threads, any_value(unit) as unit,
    any_value(amount) as amount, any_value(measured) as measured, count(seconds)::integer as turns,
    median(whole_s) as seconds, 100 * (max(whole_s) - min(whole_s)) / median(whole_s) as spread,
    any_value(amount) / median(whole_s) as per_s, median(ratio) as times_harness,
    any_value(images) as images, any_value("values") as "values", any_value(classes) as classes,
    100 * avg(agreement) as agreement, 100 * avg(fooled) as fooled, avg(l2) as l2,
    100 * avg(accuracy) as accuracy, avg(candidates) as candidates, median(overhead_s) as overhead_s,
    any_value(note) as note
from compared
group by part, "case", contender, cell
order by part, min(measured_at), "case", min(position);
