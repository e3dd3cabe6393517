-- Where the seconds went, of all that stores its own: trainings (all epochs, each with its test) and attacks. A worker's
-- seconds: several work at once, so a study ends sooner than their sum.
create view cost as
with spent as (
    select study, cell, any_value(device) as device, sum(epoch_s) as seconds, count(*) filter (epoch > 0) as units,
           'epochs' as unit
    from training group by study, cell
    union all by name
    select study, cell, sum(attack_s) as seconds, count(*) as units, 'images' as unit from attack group by study, cell
    union all by name
    select study, cell, sum(attack_s) as seconds, count(*) as units, 'images' as unit
    from evaluation where access = 'white_box' group by study, cell
)
select c.study, c.step, any_value(s.device) as device, count(*) as cells, sum(s.units)::bigint as units,
       any_value(s.unit) as unit, sum(s.seconds) as seconds
from spent s join cells c on c.study = s.study and c.key = s.cell
group by c.study, c.step
order by c.study, seconds desc;
